"""A second device without a second machine: tensors that lie on the CPU and say that they do not.

:class:`There` is a tensor whose device is ``lazy`` and whose numbers are real. Every operation on one
runs on the CPU, after it was looked at as a GPU would: a tensor of the CPU among those of the device is
an error, but for what torch allows there too, a number in a tensor without axes, and indices. Whatever
is made with ``device="lazy"`` while :class:`SecondDevice` holds is such a tensor; whatever is made
without a device is the CPU's, and is found out by the first operation that meets both.

So the same program runs on both devices, and its results can be compared.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map, tree_map_only

THERE = torch.device("lazy")
aten = torch.ops.aten
# What moves between devices, or takes places from the CPU.
MOVES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default}
INDEXED = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
}  # fmt: skip


class There(torch.Tensor):
    """A tensor of the second device; ``here`` is its numbers."""

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(),
            dtype=here.dtype, layout=here.layout, device=THERE, requires_grad=here.requires_grad,
        )  # fmt: skip

    def __init__(self, here):
        self.here = here

    def __repr__(self):
        return f"There({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While it holds, ``device="lazy"`` is the second device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    def __enter__(self):
        # Numbers of Python's are put into a tensor before torch dispatches.
        self._made = {name: getattr(torch, name) for name in ("tensor", "as_tensor")}
        for name, make in self._made.items():
            setattr(torch, name, _made_there(make))
        # Tensors that wrap others have views, which inference mode keeps no count of.
        self._made["inference_mode"], torch.inference_mode = torch.inference_mode, torch.no_grad
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for name, make in self._made.items():
            setattr(torch, name, make)


def _made_there(make):
    def made(data, *args, device=None, **options):
        if not _is_there(device):
            return make(data, *args, **options, **({} if device is None else {"device": device}))
        return data if isinstance(data, There) else There(make(data, *args, **options))

    return made


def _run(function, args, kwargs):
    given = _tensors((args, kwargs))
    away = any(isinstance(t, There) for t in given)
    wanted = kwargs.get("device")
    if away and function not in MOVES:
        _refuse_both(function, args, given)
    named = wanted is not None and _is_there(wanted)
    out_there = named if wanted is not None else away
    if function is aten.copy_.default:
        out_there = isinstance(args[0], There)
    inner = tree_map_only(There, lambda t: t.here, (args, kwargs))
    if named:
        inner[1]["device"] = torch.device("cpu")
    if function is aten._to_copy.default:  # a move is a copy, as between two memories
        out = inner[0][0].to(
            **{k: v for k, v in inner[1].items() if k in ("dtype", "device")}, copy=True
        )
        return There(out) if out_there else out
    out = function(*inner[0], **inner[1])
    if function in (
        aten._conj.default,
        aten._neg_view.default,
    ):  # a mark of the tensor, not of its numbers
        return There(out.resolve_conj().resolve_neg()) if out_there else out
    if function is aten._local_scalar_dense.default:
        return out
    if not out_there:
        return out
    out = tree_map(lambda t: There(t) if isinstance(t, torch.Tensor) else t, out)
    return return_and_correct_aliasing(function, args, kwargs, out)


def _is_there(device):
    return device is not None and torch.device(device).type == THERE.type


def _tensors(nest):
    found = []
    tree_map_only(torch.Tensor, found.append, nest)
    return found


def _refuse_both(function, args, given):
    # Places may come from the CPU; what is taken, and what is put there, may not.
    indices = _tensors(args[1]) if function in INDEXED else []
    for tensor in given:
        if isinstance(tensor, There) or tensor.dim() == 0 or any(tensor is i for i in indices):
            continue
        raise RuntimeError(
            f"{function}: a tensor of the CPU, {tuple(tensor.shape)}, meets one of the device"
        )


def there(value):
    """A module, or a nest of tensors, on the second device; names of parameters stay."""
    if isinstance(value, torch.nn.Module):
        for module in value.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    moved = torch.nn.Parameter(
                        There(parameter.detach().clone()), parameter.requires_grad
                    )
                    module._parameters[name] = moved
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = There(buffer.clone())
            if isinstance(module, torch.nn.RNNBase):
                module._init_flat_weights() if hasattr(module, "_init_flat_weights") else None
        return value
    return tree_map_only(torch.Tensor, lambda t: There(t.detach().clone()), value)


def here(value):
    """A nest of tensors with those of the second device as the CPU has them."""
    return tree_map_only(There, lambda t: t.here.detach(), value)
