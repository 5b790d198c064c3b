// Whether other programs take the processor from our threads, and what is done while they do.
//
// Threads of OpenMP spin for some thousandths of a second before they sleep: after a parallel part, torch's or
// ours, until the next one, and at its end. On a quiet machine that makes parallel parts cheap. Beside other
// programs it is the opposite: a thread uses up its share of the processor by spinning, and is then held up
// where it has work. GCC's OpenMP spins a thousand times shorter where it has more threads than there are
// processors. So while others take a third of a processor from our threads there are some threads more:
// guests, a team that does nothing and sleeps. They go when it has been quiet for a second. Where the
// environment says how to wait, that is left alone.
#include "crowd.h"

#if defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && defined(_OPENMP) && !defined(BPTT_STD_THREADS)
#define BPTT_WATCHES_CROWD
#include <omp.h>
#include <time.h>

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>
#endif

namespace bptt {

#ifdef BPTT_WATCHES_CROWD
namespace {

// Nanoseconds: between two decisions, for which one holds, and that a thread may take to wake up.
constexpr int64_t window = 20'000'000, memory = 1'000'000'000, late = 200'000;
constexpr int most = 64;  // guests

int64_t read(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

// A team of OpenMP's threads that sleep for as long as they are wanted.
class Guests {
public:
    // So many that OpenMP has more threads than processors, beside a team of `threads`.
    void call(int threads) {
        const std::lock_guard<std::mutex> hold(mutex_);
        if (here_) return;
        const int missing = omp_get_num_procs() - threads;
        const int size = (missing > 0 ? missing : 0) + 2;
        if (size > most) return;
        try {
            std::thread([this, size, own = ++visit_] {
                std::atomic<int> came{0};
#pragma omp parallel num_threads(size)
                came.fetch_add(1, std::memory_order_relaxed);
                std::unique_lock<std::mutex> hold(mutex_);
                gone_.wait(hold, [this, own] { return !here_ || visit_ != own; });
            }).detach();
            here_ = true;
        } catch (const std::system_error&) {  // no more threads: then it stays as it is
        }
    }

    void dismiss() {
        const std::lock_guard<std::mutex> hold(mutex_);
        here_ = false;
        gone_.notify_all();
    }

private:
    std::mutex mutex_;
    std::condition_variable gone_;
    bool here_ = false;
    int64_t visit_ = 0;
};

Guests& guests() {
    static Guests* const made = new Guests;  // its thread may outlive everything that is static
    return *made;
}

// Of all callers together; what two of them write at the same moment may be lost.
std::atomic<int64_t> begun{0}, worked{0}, taken{0}, quiet_from{0};
std::atomic<double> crowd{0};  // processors' worth of others' work, a mean that forgets

}  // namespace

Presence::Presence() : wall_(read(CLOCK_MONOTONIC)), own_(read(CLOCK_THREAD_CPUTIME_ID)) {}

void Presence::add_to(std::atomic<int64_t>& lost, int64_t called) const {
    const int64_t waited = wall_ - called;
    const int64_t off = (read(CLOCK_MONOTONIC) - wall_) - (read(CLOCK_THREAD_CPUTIME_ID) - own_);
    lost.fetch_add((waited > late ? waited : 0) + (off > 0 ? off : 0), std::memory_order_relaxed);
}

int64_t clock_now() { return read(CLOCK_MONOTONIC); }

bool watches_crowd() {
    static const bool watches = !std::getenv("OMP_WAIT_POLICY") && !std::getenv("GOMP_SPINCOUNT");
    return watches;
}

void note_crowd(int threads, int64_t called, int64_t lost) {
    if (!watches_crowd()) return;
    const int64_t now = read(CLOCK_MONOTONIC), since = begun.load(std::memory_order_relaxed);
    worked.fetch_add(now - called, std::memory_order_relaxed);
    taken.fetch_add(lost, std::memory_order_relaxed);
    if (now - since < window) return;
    begun.store(now, std::memory_order_relaxed);
    const int64_t all = worked.exchange(0), others = taken.exchange(0);
    if (now - since > memory) return;  // what was long ago says nothing
    const double mean = 0.75 * crowd.load() + 0.25 * double(others) / double(all);
    crowd.store(mean, std::memory_order_relaxed);
    // A quiet machine takes a little of every thread; a busy program takes a half of one and more.
    if (mean > 0.3 + 0.005 * threads) {
        quiet_from.store(now + memory, std::memory_order_relaxed);
        guests().call(threads);
    } else if (const int64_t until = quiet_from.load(std::memory_order_relaxed); until != 0 && now > until) {
        quiet_from.store(0, std::memory_order_relaxed);
        guests().dismiss();
    }
}
#else
Presence::Presence() : wall_(0), own_(0) {}
void Presence::add_to(std::atomic<int64_t>&, int64_t) const {}
int64_t clock_now() { return 0; }
void note_crowd(int, int64_t, int64_t) {}
bool watches_crowd() { return false; }
#endif

}  // namespace bptt
