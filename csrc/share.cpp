// Pieces of work for some threads, each piece for the thread that comes first.
//
// On a machine that others use too, a thread may be held up at any moment, for some thousandths of a second.
// Then the others take the pieces that it has not begun. And they do not spin while they wait for it: the
// processor that they would keep busy may be the one that it waits for. A few microseconds they do look,
// because on a quiet machine the last piece ends that soon; then they sleep until it has ended.
#include "crowd.h"
#include "kernels.h"

#include <atomic>

#if defined(BPTT_STD_THREADS)
#include <thread>
#elif defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#else
#include <thread>
#endif

namespace bptt {

#if defined(_OPENMP) && !defined(BPTT_STD_THREADS)
namespace {

inline void rest() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

struct Meeting {
    std::atomic<int> here{0}, asleep{0};

    // Comes back when all threads have come here.
    void wait(int all) {
        constexpr int looks = 1000;  // of some 50 nanoseconds
        int found = here.fetch_add(1) + 1;
        const bool last = found == all;
        for (int i = 0; i < looks && found < all; ++i, found = here.load(std::memory_order_acquire)) rest();
#if defined(__linux__)
        int* const address = reinterpret_cast<int*>(&here);
        // Who goes to sleep says so first, and sleeps only while the number is the one that was seen.
        if (found < all) asleep.fetch_add(1);
        for (; found < all; found = here.load())
            syscall(SYS_futex, address, FUTEX_WAIT_PRIVATE, found, nullptr, nullptr, 0);
        if (last && asleep.load() > 0) syscall(SYS_futex, address, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
        (void)last;
        for (; found < all; found = here.load()) std::this_thread::yield();
#endif
    }
};

}  // namespace
#endif

void share_out(int threads, int pieces, void (*run)(const void*, int, int), const void* with) {
    std::atomic<int> next{0};
    const auto work = [&](int thread) {
        for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < pieces;) run(with, i, thread);
    };
#if defined(BPTT_STD_THREADS)
    // ThreadSanitizer does not see into the OpenMP runtime; it sees these.
    std::thread others[64];
    const int all = threads < 64 ? threads : 64;
    for (int i = 1; i < all; ++i) others[i] = std::thread([&work, i] { work(i); });
    work(0);
    for (int i = 1; i < all; ++i) others[i].join();
#elif defined(_OPENMP)
    // OpenMP may grant fewer threads. Its own barrier, at the end, spins: all come there at once.
    Meeting meeting;
    std::atomic<int64_t> lost{0};
    const int64_t called = clock_now();
#pragma omp parallel num_threads(threads)
    {
        const Presence presence;
        work(omp_get_thread_num());
        presence.add_to(lost, called);
        meeting.wait(omp_get_num_threads());
    }
    note_crowd(threads, called, lost.load(std::memory_order_relaxed));
#else
    (void)threads;
    work(0);
#endif
}

}  // namespace bptt
