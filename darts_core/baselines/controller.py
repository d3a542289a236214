"""The LSTM controller of ENAS (Pham et al. 2018, and its code), which draws a cell decision by decision.

Two layers of 32 units read the decision before and say the next one. Of a node that keeps k edges first the k sources
are chosen, by attention over what the LSTM had said at each earlier state, then an operation for each; where every edge
is kept only operations are chosen. Logits are bounded, so that no choice is ever certain:

    source:     1.1 tanh(v . tanh(W1 h_state + W2 h))          operation:  (1.1 / 2.5) tanh(W h + b)

Beside the code: sources are chosen in rising order, so that a cell is drawn in one way only and its probability is
exact (the code may choose one source twice); the code's fixed preference for its first two operations is left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from darts_core.genotype import CellGenes, Gene, Genotype
from darts_core.space import CellSpec, SearchSpace

UNITS = 32
LAYERS = 2
REDUCED = 2.5  # operations' logits are bounded so many times tighter than sources'
START = 0.1  # weights are drawn from -START to START

# (logits of the options, the options) -> the place of the one that is taken
Take = Callable[[Tensor, Sequence[int]], int]


class Walk:
    """One passage through the decisions of a cell: their joint log probability, and the entropies on the way (nats)."""

    def __init__(self, take: Take) -> None:
        self.take = take
        self.log_probability = torch.zeros(())
        self.entropy = torch.zeros(())

    def choose(self, logits: Tensor, options: Sequence[int]) -> int:
        """One of `options`, of which `logits` (options,) are the logits."""
        logs = torch.log_softmax(logits, 0)
        place = self.take(logs, options)
        self.log_probability = self.log_probability + logs[place]
        self.entropy = self.entropy - (logs.exp() * logs).sum()
        return options[place]


class Controller(nn.Module):
    """A policy over the cells of a space.

    Args:
        bound: largest logit of a source (ENAS: 1.1).
    """

    def __init__(self, space: SearchSpace, bound: float, generator: torch.Generator) -> None:
        super().__init__()
        self.bound = bound
        ops = max(len(cell.ops) for cell in space.cells.values())
        self.start = nn.Parameter(torch.zeros(UNITS))  # what is read where nothing was decided yet
        self.embedding = nn.Parameter(torch.zeros(ops, UNITS))
        self.layers = nn.ModuleList(nn.LSTMCell(UNITS, UNITS) for _ in range(LAYERS))
        self.ops = nn.Linear(UNITS, ops)
        self.state = nn.Linear(UNITS, UNITS, bias=False)
        self.query = nn.Linear(UNITS, UNITS, bias=False)
        self.score = nn.Linear(UNITS, 1, bias=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-START, START, generator=generator)

    def draw(self, space: SearchSpace, rng: random.Random) -> Genotype:
        """A cell from the policy, with the operations that its edges may hold now."""
        take: Take = lambda logs, options: rng.choices(range(len(options)), logs.double().exp().tolist())[0]  # noqa: E731
        with torch.no_grad():
            return self._passed(space, lambda kind, node: Walk(take))

    def of(self, space: SearchSpace, genotype: Genotype) -> tuple[Tensor, Tensor]:
        """(log probability of a cell, sum of the entropies of its decisions in nats), 0-d each, with gradients."""
        walks: list[Walk] = []

        def told(kind: str, node: int) -> Walk:
            cell = space.cells[kind]
            now = {gene.source: cell.ops.index(gene.op) for gene in genotype.cells[kind].nodes[node]}
            if cell.keep is None:
                sources = [cell.edges[e][0] for e in cell.edges_into(node)]
                script = [now.get(s, cell.ops.index("none") if "none" in cell.ops else -1) for s in sources]
            else:
                script = [*sorted(now), *(now[s] for s in sorted(now))]
            rest = iter(script)
            walks.append(Walk(lambda logs, options: options.index(next(rest))))
            return walks[-1]

        self._passed(space, told)
        zero = torch.zeros(())
        return sum((w.log_probability for w in walks), zero), sum((w.entropy for w in walks), zero)

    def _passed(self, space: SearchSpace, walks: Callable[[str, int], Walk]) -> Genotype:
        """Through all decisions, kind by kind with the memory of the kind before; `walks` says who takes them."""
        nothing = self.start.new_zeros(1, UNITS)
        memory = [(nothing, nothing) for _ in self.layers]
        cells = {}
        for kind, cell in space.cells.items():
            anchors = [self._said(self.start, memory) for _ in range(cell.inputs)]
            nodes = []
            for node in range(cell.nodes):
                nodes.append(self._node(cell, node, anchors, memory, walks(kind, node)))
                anchors.append(self._said(self.start, memory))
            cells[kind] = CellGenes(tuple(nodes), cell.output, cell.inputs)
        return Genotype(space.name, cells)

    def _node(
        self, cell: CellSpec, node: int, anchors: list[Tensor], memory: list[tuple[Tensor, Tensor]], walk: Walk
    ) -> tuple[Gene, ...]:
        edge = {cell.edges[e][0]: e for e in cell.edges_into(node)}
        sources, read = sorted(edge), self.start
        if cell.keep is not None:
            free, count, sources = sources, min(cell.keep, len(sources)), []
            for turn in range(count):
                after = [s for s in free if not sources or s > sources[-1]]
                options = after[: len(after) - (count - turn - 1)]  # as many must be left as are still to be chosen
                said = self._said(read, memory)
                keys = torch.stack([anchors[s] for s in options])
                scores = self.score(torch.tanh(self.state(keys) + self.query(said))).squeeze(-1)
                sources.append(walk.choose(self.bound * torch.tanh(scores), options))
                read = anchors[sources[-1]]
        genes = []
        for source in sources:
            options = [cell.ops.index(op) for op in cell.choices(edge[source])]
            logits = self.bound / REDUCED * torch.tanh(self.ops(self._said(read, memory)))
            op = walk.choose(logits[options], options)
            read = self.embedding[op]
            if cell.ops[op] != "none":
                genes.append(Gene(cell.ops[op], source))
        return tuple(genes)

    def _said(self, read: Tensor, memory: list[tuple[Tensor, Tensor]]) -> Tensor:
        """(units,) the last layer's answer to `read`; `memory` goes on."""
        x = read[None]
        for number, layer in enumerate(self.layers):
            memory[number] = layer(x, memory[number])
            x = memory[number][0]
        return x[0]
