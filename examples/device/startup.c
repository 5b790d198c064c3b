/* The little that a bare Cortex-M needs before main: vectors, .data, .bss, the FPU; and the system
 * calls of newlib over semihosting, by which a debugger or QEMU shows what printf writes. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>

extern uint32_t stack_top[], data_load[], data_start[], data_end[], bss_start[], bss_end[];
extern char heap_start[], heap_end[];
extern int main(void);
void reset(void);
void stop(void);
void *_sbrk(ptrdiff_t size);
int _write(int file, const char *text, int length);
int _read(int file, char *text, int length);
int _close(int file);
int _fstat(int file, struct stat *status);
int _isatty(int file);
int _lseek(int file, int offset, int from);
int _getpid(void);
int _kill(int process, int signal);
void _exit(int status);

/* Stack, reset, and fourteen exceptions that all end the program. */
__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_top, reset, stop, stop, stop, stop, stop, stop,
    stop, stop, stop, stop, stop, stop, stop, stop,
};

static int semihosting(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void _exit(int status)
{
    const uint32_t reason[2] = {0x20026U, (uint32_t)status}; /* ADP_Stopped_ApplicationExit */
    (void)semihosting(0x20, reason);                         /* SYS_EXIT_EXTENDED */
    for (;;) {
    }
}

void stop(void)
{
    _exit(99);
}

void reset(void)
{
    for (uint32_t *to = data_start, *from = data_load; to < data_end; to++, from++) {
        *to = *from;
    }
    for (uint32_t *to = bss_start; to < bss_end; to++) {
        *to = 0U;
    }
#if defined(__ARM_FP)
    *(volatile uint32_t *)0xE000ED88U |= 0xFU << 20; /* CPACR: coprocessors 10 and 11 */
    __asm__ volatile("dsb\n\tisb");
#endif
    exit(main()); /* flushes what printf holds */
}

int _write(int file, const char *text, int length)
{
    (void)file;
    for (int k = 0; k < length; k++) {
        (void)semihosting(0x03, &text[k]); /* SYS_WRITEC */
    }
    return length;
}

void *_sbrk(ptrdiff_t size)
{
    static char *end = heap_start;
    if (end + size > heap_end) {
        return (void *)-1;
    }
    end += size;
    return end - size;
}

int _read(int file, char *text, int length)
{
    (void)file, (void)text, (void)length;
    return 0;
}

int _close(int file)
{
    (void)file;
    return -1;
}

int _fstat(int file, struct stat *status)
{
    (void)file;
    status->st_mode = S_IFCHR;
    return 0;
}

int _isatty(int file)
{
    (void)file;
    return 1;
}

int _lseek(int file, int offset, int from)
{
    (void)file, (void)offset, (void)from;
    return 0;
}

int _getpid(void)
{
    return 1;
}

int _kill(int process, int signal)
{
    (void)process, (void)signal;
    return -1;
}
