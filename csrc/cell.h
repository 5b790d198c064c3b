// What a cell's file includes, and the table it fills in from the cell.
#pragma once

#include "backward.h"
#include "forward.h"
#include "kernels.h"

namespace bptt {
namespace BPTT_ISA {

template <class C>
size_t workspace(const Problem& p, bool is_backward) {
    Arena arena(nullptr);
    if (is_backward) BackwardPlan<C>(p, arena);
    else ForwardPlan<C>(p, arena);
    return arena.used();
}

template <class C>
Kernels<typename C::T> kernels_of() {
    return {forward<C>, backward<C>, packed_size<C>, pack_forward<C>, workspace<C>};
}

}  // namespace BPTT_ISA
}  // namespace bptt
