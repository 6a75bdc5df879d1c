"""The person decoder: people of an image attend to each other, then to the image's patches.

Parameters have the names of the released files. Every LayerNorm has PyTorch's epsilon, 1e-5; the context is not
normalised, and nothing is normalised after the last layer. Shapes: B images, P people of an image (padded), N patches,
D width, E width of the context, h heads. Source: naver/multi-hmr.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """Attention among the people of an image."""

    def __init__(self, dim: int, *, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim))

    def forward(self, people: Tensor, present: Tensor) -> Tensor:
        """Attend; (B, P, D) and bool (B, P), which people are no padding -> (B, P, D)."""
        q, k, v = (_split(part, self.heads) for part in self.to_qkv(people).chunk(3, dim=-1))
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=present[:, None, None])
        out: Tensor = self.to_out(_merge(attended))
        return out


class CrossAttention(nn.Module):
    """Attention of people to the patches of their image."""

    def __init__(self, dim: int, *, context_dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_kv = nn.Linear(context_dim, 2 * heads * dim_head, bias=False)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim))

    def forward(self, people: Tensor, context: Tensor) -> Tensor:
        """Attend; (B, P, D) and (B, N, E) -> (B, P, D)."""
        k, v = (_split(part, self.heads) for part in self.to_kv(context).chunk(2, dim=-1))
        attended = functional.scaled_dot_product_attention(_split(self.to_q(people), self.heads), k, v)
        out: Tensor = self.to_out(_merge(attended))
        return out


class FeedForward(nn.Module):
    """Two Linears with an exact GELU; the third place is that of a dropout without parameters."""

    def __init__(self, dim: int, *, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, people: Tensor) -> Tensor:
        """(B, P, D) -> (B, P, D)."""
        out: Tensor = self.net(people)
        return out


class Normalised(nn.Module):
    """A LayerNorm before one of the three parts of a layer."""

    def __init__(self, dim: int, part: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = part

    def forward(self, people: Tensor, *others: Tensor) -> Tensor:
        """Normalise (B, P, D) and hand it on, the others as they are."""
        out: Tensor = self.fn(self.norm(people), *others)
        return out


class Layers(nn.Module):
    """Layers of self-attention, cross-attention and MLP, each added to its input."""

    def __init__(self, dim: int, *, depth: int, context_dim: int, heads: int, dim_head: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    Normalised(dim, SelfAttention(dim, heads=heads, dim_head=dim_head)),
                    Normalised(dim, CrossAttention(dim, context_dim=context_dim, heads=heads, dim_head=dim_head)),
                    Normalised(dim, FeedForward(dim, hidden=mlp_dim)),
                ]
            )
            for _ in range(depth)
        )

    def forward(self, people: Tensor, context: Tensor, present: Tensor) -> Tensor:
        """(B, P, D), (B, N, E) and bool (B, P) -> (B, P, D)."""
        for layer in self.layers:
            attention, cross, mlp = layer.children()
            people = people + attention(people, present)
            people = people + cross(people, context)
            people = people + mlp(people)
        return people


class PersonDecoder(nn.Module):
    """Queries of people to features of people.

    Args:
        token_dim: width of a query.
        context_dim: width of the context, E.
        dim: inner width, D.
        depth: number of layers.
        heads: attention heads.
        dim_head: width of a head.
        mlp_dim: hidden width of the MLPs.
    """

    def __init__(
        self, *, token_dim: int, context_dim: int, dim: int, depth: int, heads: int, dim_head: int, mlp_dim: int
    ) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, 1, dim))
        self.to_token_embedding = nn.Linear(token_dim, dim)
        self.transformer = Layers(
            dim, depth=depth, context_dim=context_dim, heads=heads, dim_head=dim_head, mlp_dim=mlp_dim
        )
        nn.init.normal_(self.pos_embedding)

    def forward(self, queries: Tensor, context: Tensor, present: Tensor) -> Tensor:
        """Decode.

        Args:
            queries: (B, P, token_dim).
            context: (B, N, E).
            present: bool (B, P), False for padding; at least one True an image.

        Returns:
            (B, P, D); rows of padding mean nothing.
        """
        people = self.to_token_embedding(queries) + self.pos_embedding
        out: Tensor = self.transformer(people, context, present)
        return out


def _split(tokens: Tensor, heads: int) -> Tensor:
    """(B, P, h * d) -> (B, h, P, d)."""
    return tokens.reshape(*tokens.shape[:-1], heads, tokens.shape[-1] // heads).transpose(1, 2)


def _merge(tokens: Tensor) -> Tensor:
    """(B, h, P, d) -> (B, P, h * d)."""
    return tokens.transpose(1, 2).flatten(2)
