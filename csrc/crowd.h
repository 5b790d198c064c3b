// What other programs take of the processors while our threads work.
#pragma once

#include <atomic>
#include <cstdint>

namespace bptt {

// A thread's part in some work, from here on.
class Presence {
public:
    Presence();
    // Adds the nanoseconds that others had the processor, since the work was called for at a time.
    void add_to(std::atomic<int64_t>& lost, int64_t called) const;

private:
    int64_t wall_, own_;
};

// Nanoseconds of a clock that nobody sets.
int64_t clock_now();

// Is told of work by so many threads: when it was called for, and how many nanoseconds others took of it. While
// they take much, threads of OpenMP spin less.
void note_crowd(int threads, int64_t called, int64_t lost);

// Whether that is so here: on Linux, with GCC's OpenMP, and nothing in the environment about how to wait.
bool watches_crowd();

}  // namespace bptt
