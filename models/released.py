"""Released checkpoints of this family of programs: their names of models, arguments and tensors → ours.

The files of LIIF, LTE, CLIT and MSIT have one layout, {'model': {'name', 'args', 'sd'}, …}. Only the names differ from ours.
"""
import re

from torch import Tensor

from models.decoders.msit import MSIT, POSENC
from models.registries import BiasSpec, Depth, EncoderSpec, MLPSpec, Radius, register

# their arguments → ours
AMSIT_ARGUMENTS = {'head': 'heads', 'r': 'radius', 'is_cell': 'cell_decode', 'MsC_heads': 'msc_convs',
                   'MsSA_q': 'mssa_projections'}
AMSIT_FIXED = {'imnet_num': 1, 'conv_num': 1, 'local_attn': True}  # nothing else was released
AMSIT_IDLE = ('verbose', 'use_lem')  # the first only prints there; the second is translated to `fem`


@register('amsit')
def amsit(*, encoder_spec: EncoderSpec, imnet_spec: MLPSpec, pb_spec: BiasSpec = POSENC, base_dim: int = 256,
          head: int = 8, r: Radius = 3, imnet_num: int = 1, conv_num: int = 1, is_cell: bool = True,
          local_attn: bool = True, use_lem: bool = True, MsC_heads: Depth = 16, MsSA_q: int = 4, verbose: bool = False,
          reparam: str = 'none', reparam_init: str = 'identity') -> MSIT:
    """MSIT under the name and arguments of the authors' program, with their FEM (fixed kernels, fixed stride).

    Their arguments → ours: head → heads, r → radius, is_cell → cell_decode, use_lem → fem, MsC_heads → msc_convs,
    MsSA_q → mssa_projections. `imnet_num` and `conv_num` must be 1 and `local_attn` true: nothing else was released.
    `verbose` has no effect.
    """
    if imnet_num != 1 or conv_num != 1 or not local_attn:
        raise ValueError('imnet_num and conv_num must be 1 and local_attn true')
    return MSIT(encoder_spec=encoder_spec, imnet_spec=imnet_spec, pb_spec=pb_spec, base_dim=base_dim, heads=head, radius=r,
                cell_decode=is_cell, fem='authors' if use_lem else 'none', msc_convs=MsC_heads, mssa_projections=MsSA_q,
                reparam=reparam, reparam_init=reparam_init)


# released tensor name → ours; a number counts from one there and from zero here
AMSIT_NAMES = (
    (r'^conv_ch\.', 'widen.'),
    (r'^amsno\.v\.', 'msno.modulation.'),
    (r'^amsno\.s\.', 'msno.embed.'),
    (r'^amsno\.lem\.mix_margin$', 'msno.fem.stride'),
    (r'^amsno\.lem\.mask$', 'msno.fem.kernels'),
    (r'^amsno\.Ms_conv_(\d+)\.', 'msno.msc.convs.{}.'),
    (r'^amsno\.sim0\.', 'msno.sim.within.'),
    (r'^amsno\.bn\.', 'msno.sim.bn.'),
    (r'^amsno\.sim1\.', 'msno.sim.across.'),
    (r'^amsno\.proj\.', 'msno.proj.'),
    (r'^multi_conv_qs\.0\.proj0\.', 'mssa.query_map.proj.'),
    (r'^multi_conv_qs\.0\.local_conv_(\d+)\.', 'mssa.query_map.msc.convs.{}.'),
    (r'^multi_conv_qs\.0\.proj1\.', 'mssa.query_map.mix.within.'),
    (r'^multi_conv_qs\.0\.bn\.', 'mssa.query_map.mix.bn.'),
    (r'^multi_conv_qs\.0\.proj2\.', 'mssa.query_map.mix.across.'),
    (r'^conv_vs\.0\.', 'mssa.value_map.convs.0.'),
    (r'^pb_encoder\.', 'mssa.position_bias.'),
    (r'^imnets\.0\.', 'imnet.'),
)
BARE = ((r'^(?!encoder\.)', 'encoder.'),)  # fixed-scale networks: released without the prefix
# CiaoSR in mmediting: the parts of its encoders, EDSR and RDN, lie beside those of the decoder
MMEDITING_NAMES = (
    (r'^conv_first\.', r'encoder.head.0.'),
    (r'^body\.(\d+)\.conv1\.', r'encoder.body.\1.body.0.'),
    (r'^body\.(\d+)\.conv2\.', r'encoder.body.\1.body.2.'),
    (r'^sfe([12])\.', r'encoder.SFENet\1.'),
    (r'^rdbs\.(\d+)\.layers\.(\d+)\.conv\.', r'encoder.RDBs.\1.convs.\2.conv.0.'),
    (r'^rdbs\.(\d+)\.lff\.', r'encoder.RDBs.\1.LFF.'),
    (r'^gff\.([01])\.', r'encoder.GFF.\1.'),
)
RENAMED = {'amsit': AMSIT_NAMES, 'edsr-baseline': BARE, 'rdn': BARE}
# the mean shift of EDSR and RCAN: stored, never applied; of SwinIR what follows from its sizes; of CiaoSR a constant
UNUSED = re.compile(r'(^|\.)((sub_mean|add_mean)\.|(relative_position_index|attn_mask|escape_NaN|step_counter|n_averaged)$)')


def our_spec(spec: dict) -> dict:
    """The spec of a model under our names: that of 'msit' for one of 'amsit', any other as it is."""
    if spec['name'] != 'amsit':
        return spec
    args = dict(spec.get('args') or {})
    fem = 'authors' if args.get('use_lem', True) else 'none'
    kept = {AMSIT_ARGUMENTS.get(key, key): value for key, value in args.items() if key not in (*AMSIT_FIXED, *AMSIT_IDLE)}
    return {'name': 'msit', 'args': {**kept, 'fem': fem}}


def method(name: str) -> str:
    """The method behind the name of a model: 'msit' is 'amsit' in the authors' program."""
    return {'amsit': 'msit'}.get(name, name)


def translate(spec: dict) -> tuple[dict, dict[str, Tensor]]:
    """The spec {'name', 'args'} and our names of the tensors of a checkpoint's 'model' entry.

    A file that this project wrote passes unchanged. A re-parameterised file of the authors' program is recognised by its
    tensors, because its arguments do not say so.
    """
    name, args = spec['name'], spec.get('args') or {}
    keys = [key for key in spec['sd'] if not UNUSED.search(key)]
    if name == 'amsit' and args.get('use_lem') is False:
        keys = [key for key in keys if not key.startswith('amsno.lem.')]  # stored, though unused
    state = {rename(name, key): spec['sd'][key] for key in keys}
    if name == 'ciaosr' and any(key.startswith('generator.') for key in keys):
        state = _from_mmediting({key: spec['sd'][key] for key in keys})
    if name == 'amsit' and 'reparam' not in args and any(key.endswith('convmap.weight') for key in state):
        linear = any(key.endswith('linear.weight') for key in state)
        args = {**args, 'reparam': 'rim' if linear else 'refconv'}
    return {'name': name, 'args': args}, state


def _from_mmediting(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of CiaoSR's own program under our names."""
    state = {key.removeprefix('generator.'): value for key, value in state.items()}
    blocks = len({key.split('.')[1] for key in state if key.startswith('body.')})
    names = (*MMEDITING_NAMES, (r'^conv_after_body\.', rf'encoder.body.{blocks}.'))
    for pattern, ours in names:
        state = {re.sub(pattern, ours, key): value for key, value in state.items()}
    return state


def rename(name: str, key: str) -> str:
    """Our name of a released tensor of model `name`."""
    for pattern, ours in RENAMED.get(name, ()):
        match = re.match(pattern, key)
        if match:
            return ours.format(*(int(number) - 1 for number in match.groups())) + key[match.end():]
    return key
