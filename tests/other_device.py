"""A device that this machine does not have, computed on its CPU: for what fails, or waits, only on a real one.

Its tensors wrap those of the CPU. As on a GPU, operators refuse tensors of two devices, and the host waits where a value or
a copy comes back. As on the GPUs of Apple there is no float64. Kernels, speed and rounding are those of the CPU.
"""
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE, HOST = torch.device('mps', 0), torch.device('cpu')
COPIES = ('_to_copy', 'copy_', '_pin_memory')
INDEXING = ('index', 'index_put_', 'index_put')  # by tensors of the host, which go there by themselves


class There(Tensor):
    """A tensor of DEVICE: `values` is the tensor of the CPU that holds its numbers."""

    @staticmethod
    def __new__(cls, values: Tensor):
        if values.dtype == torch.float64:
            raise TypeError('this device has no float64')
        return Tensor._make_wrapper_subclass(cls, values.shape, strides=values.stride(), dtype=values.dtype, device='meta',
                                             storage_offset=values.storage_offset(), requires_grad=False)

    def __init__(self, values: Tensor):
        self.values = values

    @property
    def device(self) -> torch.device:  # PyTorch's own code sees 'meta', as it is not built for DEVICE here
        return DEVICE

    def tolist(self) -> list:  # PyTorch refuses it for subclasses
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        raise RuntimeError(f'{operator}: outside of OtherDevice')


def here(x):
    """The values of tensors there; everything else as it is."""
    return x.values if isinstance(x, There) else x


class OtherDevice(TorchDispatchMode):
    """While it is active, tensors can be made on and moved to DEVICE.

    Attributes:
        waits: the operators that made the host wait for a value or a copy.
    """

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name, kwargs = operator.name().split('::')[1].split('.')[0], dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, There)]
        wanted = kwargs.get('device')
        on_device = bool(there) if wanted is None else torch.device(wanted).type in (DEVICE.type, 'meta')
        if wanted is not None:
            kwargs['device'] = HOST
        if name in COPIES and there and not (on_device and isinstance(args[0], There)):
            self.waits.append(f'{name} to the host')
        elif there and name == '_local_scalar_dense':
            self.waits.append(name)
        elif there and name not in (*COPIES, *INDEXING):
            for tensor in tensors:
                if not isinstance(tensor, There) and tensor.ndim:
                    raise RuntimeError(f'{operator}: expected all tensors to be on one device')
        result = operator(*tree_map(here, args), **tree_map(here, kwargs))
        if name.endswith('_') or 'out' in kwargs:  # in place
            return kwargs.get('out', args[0])
        return tree_map(lambda x: There(x) if on_device and isinstance(x, Tensor) else x, result)


def put_there(model: nn.Module) -> nn.Module:
    """Moves a network to DEVICE, in place."""
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False)]:
            setattr(module, name, nn.Parameter(There(tensor.detach()), requires_grad=False))
        for name, tensor in [*module.named_buffers(recurse=False)]:
            setattr(module, name, There(tensor))
    return model
