"""First weights. Every parameter is drawn by a generator of its own, seeded by (seed, name of the parameter).

| parameter                     | gpt2                        | wenlu                            |
| ----------------------------- | --------------------------- | -------------------------------- |
| token embedding               | normal, 0.02                | normal, 0.5                      |
| learned positions             | normal, 0.02                | normal, 0.02                     |
| attention output, ffn down    | normal, 0.02 / sqrt(2 L)    | 0                                |
| other matrices of the layers  | normal, 0.02                | uniform within 0.7 sqrt(3 / in)  |
| output matrix, when untied    | normal, 0.02                | 0                                |
| biases                        | 0                           | 0                                |
| norms (Gemma's: less 1)       | 1                           | 1                                |

gpt2: Radford et al. 2019, section 2.3. wenlu: measured for training with Muon from an untied output matrix.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wenlu.core.errors import SettingsError
from wenlu.core.reproducibility import derive_seed
from wenlu.models.attention import Attention, RMSNorm
from wenlu.models.config import Scheme
from wenlu.models.transformer import FeedForward, Transformer


@torch.no_grad()
def initialize(model: Transformer, *, seed: int, scheme: Scheme) -> None:
    """Fill every parameter by the table above; equal seeds give equal weights, whatever was drawn before.

    Of a model on ``meta``, which has nothing to fill, the choice is checked.

    Raises:
        SettingsError: ``models.wenlu_needs_untied``: the wenlu scheme starts the output matrix at 0.
    """
    if scheme == "wenlu" and model.config.tie_embeddings:
        raise SettingsError("models.wenlu_needs_untied", initialization=scheme, tie_embeddings=True)
    if next(model.parameters()).is_meta:
        return
    residual = {id(m.o.weight) for m in model.modules() if isinstance(m, Attention)}
    residual |= {id(m.down.weight) for m in model.modules() if isinstance(m, FeedForward)}
    output = None if model.head.output is None else model.head.output.weight
    depth = 2 * sum(stack.num_layers for stack in model.config.stacks)
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            generator = torch.Generator(parameter.device)
            generator.manual_seed(derive_seed(seed, f"initialization {module_name}.{name}"))
            if name == "bias":
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1 - module.offset if isinstance(module, RMSNorm) else 1)
            elif scheme == "gpt2":
                deviation = 0.02 / math.sqrt(depth if id(parameter) in residual else 1)
                parameter.normal_(0, deviation, generator=generator)
            elif id(parameter) in residual or parameter is output:
                parameter.zero_()
            else:
                _draw_wenlu(parameter, is_token=module is model.token_embedding, module=module, generator=generator)


def _draw_wenlu(parameter: Tensor, *, is_token: bool, module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Embedding):
        parameter.normal_(0, 0.5 if is_token else 0.02, generator=generator)
    else:
        bound = 0.7 * math.sqrt(3 / parameter[0].numel())
        parameter.uniform_(-bound, bound, generator=generator)
