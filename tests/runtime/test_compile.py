"""A compiled denoiser stays the one graph it was: the gate is outside of it, and cached steps never enter it."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

import ertacache

CACHED = (2, 3, 5)
FORMS = ["module.compile", "torch.compile"]


class Backend:
    """Counts the graphs that are compiled, and how often one is run."""

    def __init__(self):
        self.graphs, self.runs = 0, 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return self.runner(graph)

    def runner(self, graph):
        def run(*args):
            self.runs += 1
            return graph.forward(*args)

        return run

    def take(self):
        """Graphs compiled and graphs run since this was last asked."""
        taken = self.graphs, self.runs
        self.graphs = self.runs = 0
        return taken


class Overwriting(Backend):
    """Returns the same memory each time, as CUDA graphs do: what a run returned is the next one's."""

    def runner(self, graph):
        memory = []

        def run(*args):
            self.runs += 1
            outputs = graph.forward(*args)
            if not memory:
                memory.extend(torch.empty_like(output) for output in outputs)
            for place, output in zip(memory, outputs, strict=True):
                place.copy_(output)
            return tuple(memory)

        return run


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compile_denoiser(pipe, form, backend):
    if form == "module.compile":
        pipe.transformer.compile(fullgraph=True, backend=backend)
    else:
        pipe.transformer = torch.compile(pipe.transformer, fullgraph=True, backend=backend)


@pytest.fixture
def eager(flux, flux_call, make_policy):
    """Plain and accelerated output of the eager pipeline."""
    plain = flux(**flux_call(guided=True)).images
    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        return plain, flux(**flux_call(guided=True)).images


@pytest.mark.parametrize("warm", ["compiled, enabled", "compiled, called, enabled", "enabled, compiled"])
@pytest.mark.parametrize("form", FORMS)
def test_one_graph_serves_all_computed_steps_and_no_cached_one(form, warm, eager, flux, flux_call, make_policy):
    backend, arguments = Backend(), lambda: flux_call(guided=True)
    plain, cached = eager
    if warm != "enabled, compiled":
        compile_denoiser(flux, form, backend)
    if warm == "compiled, called, enabled":
        torch.testing.assert_close(flux(**arguments()).images, plain, rtol=1e-4, atol=1e-4)
        assert backend.take() == (1, 16)
    run = ertacache.enable(flux, make_policy(8, CACHED))
    if warm == "enabled, compiled":
        flux(**arguments())
        compile_denoiser(flux, form, backend)
    graphs = 0 if warm == "compiled, called, enabled" else 1
    for call in range(3):
        torch.testing.assert_close(flux(**arguments()).images, cached, rtol=1e-4, atol=1e-4)
        assert backend.take() == (graphs if call == 0 else 0, 10)
        assert run.cached_steps == CACHED
    ertacache.disable(flux)
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(flux(**arguments()).images, plain, rtol=1e-4, atol=1e-4)
    assert backend.take() == (0, 16)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_outputs_that_the_next_run_overwrites(form, guided, flux, flux_call, make_policy):
    policies = make_policy(8, ()), make_policy(8, CACHED, "taylor")

    def outputs():
        for policy in policies:
            with ertacache.accelerated(flux, policy):
                yield flux(**flux_call(guided=guided)).images

    eager = list(outputs())
    compile_denoiser(flux, form, Overwriting())
    for found, expected in zip(outputs(), eager, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    plain_is_wrong = not torch.allclose(flux(**flux_call(guided=guided)).images, eager[0], rtol=1e-2, atol=1e-2)
    assert plain_is_wrong is guided  # both branches' outputs are in the same memory


@pytest.mark.parametrize("form", FORMS)
def test_switching_on_and_off_and_another_policy_never_recompile(form, flux, flux_call, make_policy):
    backend = Backend()
    compile_denoiser(flux, form, backend)
    flux(**flux_call())
    assert backend.take() == (1, 8)
    with torch.compiler.set_stance("fail_on_recompile"):
        for cached in (CACHED, (1,), (2, 4, 6)):
            with ertacache.accelerated(flux, make_policy(8, cached, "taylor")):
                flux(**flux_call())
            assert backend.take() == (0, 8 - len(cached))
            flux(**flux_call())
            assert backend.take() == (0, 8)


@pytest.mark.parametrize("form", FORMS)
def test_the_cache_adds_no_graph_where_shapes_change(form, make_flux, flux_call, make_policy):
    def graphs(policy):
        torch._dynamo.reset()
        pipe, backend = make_flux(), Backend()
        compile_denoiser(pipe, form, backend)
        if policy:
            ertacache.enable(pipe, policy)
        for prompts in (1, 2, 1):
            pipe(**flux_call(prompts=prompts))
        return backend.take()

    without, with_cache = graphs(None), graphs(make_policy(8, CACHED))
    assert without[0] == with_cache[0] >= 2
    assert (without[1], with_cache[1]) == (3 * 8, 3 * 5)


def test_compiled_blocks_are_run_at_computed_steps_only(eager, flux, flux_call, make_policy):
    backend = Backend()
    flux.transformer.compile_repeated_blocks(fullgraph=True, backend=backend)
    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        for graphs in (2, 0):  # one for the double block, one for the single block
            out = flux(**flux_call(guided=True)).images
            torch.testing.assert_close(out, eager[1], rtol=1e-4, atol=1e-4)
            assert backend.take() == (graphs, 2 * 10)


@pytest.mark.parametrize("form", FORMS)
def test_afterwards_the_compiled_module_is_what_it_was(form, flux, flux_call, make_policy):
    compile_denoiser(flux, form, Backend())
    flux(**flux_call())
    module = flux.transformer
    inner = getattr(module, "_orig_mod", module)
    before = [dict(vars(m)) for m in (module, inner)]
    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        flux(**flux_call())
    for attributes, m in zip(before, (module, inner), strict=True):
        assert list(vars(m)) == list(attributes)
        assert [name for name in attributes if vars(m)[name] is not attributes[name]] == []


@pytest.mark.parametrize("form", FORMS)
def test_compiled_before_enable_and_uncompiled_while_enabled(form, eager, flux, flux_call, make_policy):
    backend = Backend()
    compile_denoiser(flux, form, backend)
    with ertacache.accelerated(flux, make_policy(8, CACHED)) as run:
        flux(**flux_call(guided=True))
        backend.take()
        if form == "module.compile":
            flux.transformer._compiled_call_impl = None
        else:
            flux.transformer = flux.transformer._orig_mod
        assert torch.equal(flux(**flux_call(guided=True)).images, eager[1])
        assert run.cached_steps == CACHED
        assert backend.take() == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_default_compiler_gives_the_eager_output(form, eager, flux, flux_call, make_policy):
    compile_denoiser(flux, form, "inductor")
    with ertacache.accelerated(flux, make_policy(8, CACHED)) as run:
        first = flux(**flux_call(guided=True)).images
        with torch.compiler.set_stance("fail_on_recompile"):
            second = flux(**flux_call(guided=True)).images
    torch.testing.assert_close(first, eager[1], rtol=1e-3, atol=1e-3)
    assert torch.equal(first, second)
    assert run.report.denoiser_calls == 10
    assert counters["stats"]["unique_graphs"] == 1
