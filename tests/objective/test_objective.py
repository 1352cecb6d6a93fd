"""The loss: exact against the naive form, zero where it must be, gradients checked in double precision."""

import dataclasses
import itertools
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salad.config import Stage
from salad.objective.ctc import ctc, ctc_fits
from salad.objective.distill import Objective, distill, kl_per_position
from salad.objective.head import Head
from salad.types import SaladError


def case(n=7, v=11, hs=5, ht=6, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = lambda *shape: torch.randn(*shape, generator=g, dtype=dtype)  # noqa: E731
    return r(n, hs), r(n, ht), r(v, hs), r(v, ht), torch.randint(0, v, (n,), generator=g)


@given(st.integers(0, 40), st.integers(2, 30), st.floats(0, 1), st.integers(0, 5))
def test_equals_the_naive_form(n, v, alpha, seed):
    s, t, hs, ht, y = case(n, v, seed=seed)
    loss = distill(s, t, hs, ht, y, alpha)
    log_s, log_t = (s @ hs.T).log_softmax(-1), (t @ ht.T).log_softmax(-1)
    kl = torch.nn.functional.kl_div(log_s, log_t, reduction="sum", log_target=True)
    nll = torch.nn.functional.nll_loss(log_s, y, reduction="sum") if n else torch.tensor(0.0)
    assert torch.allclose(loss.kl, kl) and torch.allclose(loss.nll, nll.to(loss.nll.dtype)) and loss.count == n
    assert torch.allclose(loss.total, alpha * kl + (1 - alpha) * nll)


@pytest.mark.parametrize("divergence", ["kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize(("alpha", "temperature", "beta"), [(0.0, 1.0, 0.5), (0.3, 2.0, 0.1), (1.0, 1.0, 0.9)])
def test_gradients(divergence, alpha, temperature, beta):
    s, t, hs, ht, y = case()
    s.requires_grad_()
    hs.requires_grad_()
    objective = Objective(divergence, temperature, beta)
    assert torch.autograd.gradcheck(lambda a, b: distill(a, t, b, ht, y, alpha, objective, chunk=3).total, (s, hs))


@pytest.mark.parametrize("divergence", ["kl", "reverse_kl"])
@pytest.mark.parametrize(("biased", "scale", "cap"), [(True, 1.0, None), (False, 0.25, None), (True, 0.5, 1.5)])
def test_a_head_s_bias_scale_and_cap_are_applied_chunk_by_chunk(divergence, biased, scale, cap):
    s, t, hs, ht, y = case()
    bias = torch.linspace(-1, 1, len(hs), dtype=s.dtype) if biased else None
    teacher = Head(ht, None if bias is None else -bias, scale, cap)

    def naive(s, w, b):
        raw = [x @ m.T + (0 if c is None else c) for x, m, c in ((s, w, b), (t, ht, teacher.bias))]
        own, other = ((x if cap is None else cap * torch.tanh(scale * x / cap)) * (1 if cap else scale) for x in raw)
        log_s, log_t = own.log_softmax(-1), other.log_softmax(-1)
        p, q = (log_t, log_s) if divergence == "kl" else (log_s, log_t)
        kl = (p.exp() * (p - q)).sum()
        return 0.6 * kl - 0.4 * log_s.gather(1, y[:, None]).sum()

    parts = [x.requires_grad_() for x in (s, hs, *([bias] if biased else []))]
    settings = {"objective": Objective(divergence), "chunk": 3}
    ours = lambda s, w, b=None: distill(s, t, Head(w, b, scale, cap), teacher, y, 0.6, **settings).total  # noqa: E731
    wanted = naive(s, hs, bias)
    assert torch.allclose(ours(*parts), wanted)
    for one, other in zip(torch.autograd.grad(ours(*parts), parts), torch.autograd.grad(wanted, parts), strict=True):
        assert torch.allclose(one, other)
    assert torch.autograd.gradcheck(ours, tuple(parts))


def test_other_divergences_equal_their_definitions():
    s, t, hs, ht, y = case()
    log_s, log_t = ((x / 2).log_softmax(-1) for x in (s @ hs.T, t @ ht.T))
    kl = lambda log_p, log_q: (log_p.exp() * (log_p - log_q)).sum()  # noqa: E731
    reverse = distill(s, t, hs, ht, y, objective=Objective("reverse_kl", 2.0))
    assert torch.allclose(reverse.kl, 4 * kl(log_s, log_t))
    log_m = (0.3 * log_t.exp() + 0.7 * log_s.exp()).log()
    jsd = distill(s, t, hs, ht, y, objective=Objective("jsd", 2.0, 0.3))
    assert torch.allclose(jsd.kl, 4 * (0.3 * kl(log_t, log_m) + 0.7 * kl(log_s, log_m)))


def test_a_tied_head_gets_the_gradient_of_the_student_only():
    s, t, hs, _, y = case(hs=6, ht=6)
    hs.requires_grad_()
    distill(s, t, hs, hs, y, 0.5).total.backward()
    apart = hs.detach().clone().requires_grad_()
    distill(s, t, apart, hs.detach(), y, 0.5).total.backward()
    assert torch.equal(hs.grad, apart.grad)


@pytest.mark.parametrize("true_kl", [1e-2, 1e-4])
def test_mixed_precision_keeps_a_small_kl_and_its_gradient(true_kl):
    """Logits rounded to bf16 miss a KL of 1e-4 several times over; what is formed in float32 does not."""
    g = torch.Generator().manual_seed(0)
    head = torch.randn(2000, 64, generator=g).to(torch.bfloat16)
    teacher = (torch.randn(50, 64, generator=g) * 0.4).to(torch.bfloat16)
    noise = torch.randn(50, 64, generator=g)
    student = (teacher.float() + noise * 0.02 * (true_kl / 1e-2) ** 0.5).to(torch.bfloat16).requires_grad_()
    y = torch.zeros(50, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        loss = distill(student, teacher, head, head, y)
    loss.total.backward()
    exact = student.detach().double().requires_grad_()
    reference = distill(exact, teacher.double(), head.double(), head.double(), y)
    reference.total.backward()
    per_position = float(reference.kl) / 50
    assert true_kl / 5 < per_position < true_kl * 5
    assert abs(float(loss.kl) / float(reference.kl) - 1) < 0.02
    assert float((student.grad.double() - exact.grad).norm() / exact.grad.norm()) < 0.05
    naive = kl_per_position((teacher @ head.T), (student.detach() @ head.T)).sum()
    assert true_kl > 1e-3 or abs(float(naive) / float(reference.kl) - 1) > 0.2


def test_float32_gradient_against_double():
    s, t, hs, ht, y = case(n=60, v=900, hs=32, ht=32, dtype=torch.float32)
    s.requires_grad_()
    distill(s, t, hs, ht, y, 0.5).total.backward()
    d = s.detach().double().requires_grad_()
    distill(d, t.double(), hs.double(), ht.double(), y, 0.5).total.backward()
    assert float((s.grad.double() - d.grad).norm() / d.grad.norm()) < 1e-5


@pytest.mark.slow
def test_compiled_equals_eager():
    s, t, hs, ht, y = case(n=9, v=40, dtype=torch.float32)
    s.requires_grad_()
    for divergence in ("kl", "jsd"):
        losses, grads = [], []
        for compile in (False, True):
            loss = distill(s, t, hs, ht, y, 0.5, Objective(divergence, compile=compile))
            (grad,) = torch.autograd.grad(loss.total, s)
            losses.append(loss.total)
            grads.append(grad)
        assert torch.allclose(*losses, rtol=1e-5) and torch.allclose(*grads, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"divergence": "tv"}, "divergence: 'tv'"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"divergence": "jsd", "jsd_beta": 1.0}, "jsd_beta 1.0"),
    ],
)
def test_settings_that_do_not_fit(change, message):
    with pytest.raises(SaladError, match=message):
        Objective(**change)


def test_an_objective_is_what_the_section_says():
    settings = Stage(steps=1, divergence="jsd", temperature=2, jsd_beta=0.25, compile=True)
    made = Objective.of(settings)
    assert all(getattr(made, own.name) == getattr(settings, own.name) for own in dataclasses.fields(Objective))


def test_shapes_that_do_not_fit():
    s, t, hs, ht, y = case()
    with pytest.raises(SaladError, match="vocabulary"):
        distill(s, t, hs, ht[:-1], y)
    with pytest.raises(SaladError, match="targets"):
        distill(s[:-1], t, hs, ht, y)
    with pytest.raises(SaladError, match="wide"):
        distill(s, s, hs, ht, y)


def test_kl_of_a_distribution_with_itself_is_zero():
    logits = torch.randn(9, 50) * 8
    assert float(kl_per_position(logits, logits).abs().max()) == 0.0
    s, _, hs, _, y = case(dtype=torch.float32)
    assert float(distill(s, s, hs, hs, y).total) == 0.0


def test_kl_is_not_cross_entropy():
    """A published forward KL leaves out the teacher's entropy: it would not be zero here."""
    logits = torch.zeros(3, 8)
    assert float(kl_per_position(logits, logits).sum()) == 0.0


def test_no_position_gives_zero_with_a_gradient():
    s, t, hs, ht, y = case(n=0)
    s.requires_grad_()
    loss = distill(s, t, hs, ht, y)
    loss.total.backward()
    assert float(loss.total) == 0.0 and loss.count == 0


def test_frozen_head_gets_no_gradient_and_teacher_never():
    s, t, hs, ht, y = case(n=131, dtype=torch.float32)
    s.requires_grad_()
    t.requires_grad_()
    distill(s, t, hs, ht, y).total.backward()
    assert s.grad is not None and hs.grad is None and t.grad is None


def test_logits_are_float32_under_autocast():
    """Rounded to bf16, the logits of near-equal models would put large errors into a small KL."""
    s, _, hs, _, y = case(n=64, v=500, hs=64, dtype=torch.float32)
    t = s + 0.003 * torch.randn(s.shape, generator=torch.Generator().manual_seed(1))
    exact = float(distill(s.double(), t.double(), hs.double(), hs.double(), y).kl)
    with torch.autocast("cpu", torch.bfloat16):
        ours = float(distill(s, t, hs, hs, y).kl)
    assert abs(ours - exact) < 0.02 * exact
    naive = kl_per_position((t @ hs.T).bfloat16(), (s @ hs.T).bfloat16()).sum()
    assert abs(float(naive) - exact) > 0.05 * exact  # the trap is real


@given(st.integers(0, 50), st.integers(1, 6))
def test_ctc_equals_torchs_over_all_classes(seed, num_spans):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 20, (num_spans,), generator=g).tolist()
    sizes = torch.randint(0, 8, (num_spans,), generator=g).tolist()
    classes = [torch.randint(1, 9, (n,), generator=g).tolist() for n in sizes]
    ours = (torch.randn(sum(lengths), 9, generator=g, dtype=torch.float64) * 3).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    loss, count = ctc(ours, lengths, classes)
    (0.3 * loss).backward()
    fitting = [(s, t) for s, t in zip(theirs.split(lengths), classes, strict=True) if ctc_fits(len(s), t)]
    assert count == sum(len(t) for _, t in fitting)
    if not fitting:
        assert float(loss) == 0.0 and not ours.grad.any()
        return
    reference = torch.nn.functional.ctc_loss(
        torch.nn.utils.rnn.pad_sequence([s.log_softmax(-1) for s, _ in fitting]),
        torch.tensor([c for _, t in fitting for c in t]),
        torch.tensor([len(s) for s, _ in fitting]),
        torch.tensor([len(t) for _, t in fitting]),
        reduction="sum",
    )
    (0.3 * reference).backward()
    assert torch.allclose(loss, reference) and torch.allclose(ours.grad, theirs.grad, atol=1e-12)


@pytest.mark.parametrize("trains", [False, True])
def test_products_of_halves_keep_a_small_kl_its_gradient_and_a_head_that_has_hardly_moved(monkeypatch, trains):
    """What a GPU multiplies in bf16 (the same arithmetic here): within the bounds, and 0 for equals."""
    module = sys.modules["salad.objective.distill"]
    monkeypatch.setattr(module, "SPLITS", ("cpu",))
    g = torch.Generator().manual_seed(0)
    theirs = torch.randn(2000, 64, generator=g)
    ours = theirs + 3e-3 * torch.randn(2000, 64, generator=g) if trains else theirs
    teacher = torch.randn(50, 64, generator=g) * 0.4
    student = teacher + torch.randn(50, 64, generator=g) * (1e-4 if trains else 2e-3)
    y = torch.zeros(50, dtype=torch.long)

    def both(alpha, wide=torch.float32):
        head, states = (x.detach().clone().to(wide).requires_grad_(on) for x, on in ((ours, trains), (student, True)))
        with torch.autocast("cpu", torch.bfloat16, enabled=wide == torch.float32):
            loss = distill(states, teacher.to(wide), head, theirs.to(wide), y, alpha)
        loss.total.backward()
        return loss, states.grad.double(), head.grad.double() if trains else torch.zeros(1)

    for alpha in (1.0, 0.0):
        ours_, exact = both(alpha), both(alpha, torch.float64)
        assert 1e-5 < float(exact[0].kl) / 50 < 5e-4  # where distillation ends, and begins
        assert abs(float(ours_[0].kl) / float(exact[0].kl) - 1) < 0.02
        assert abs(float(ours_[0].nll) / float(exact[0].nll) - 1) < 1e-3
        for one, other in zip(ours_[1:], exact[1:], strict=True):
            assert float((one - other).norm()) <= 0.05 * float(other.norm())
    with torch.autocast("cpu", torch.bfloat16):
        assert float(distill(teacher, teacher, theirs.requires_grad_(trains), theirs.detach(), y).kl) == 0.0
        monkeypatch.setattr(module, "_halves", lambda x, number: [x.to(torch.bfloat16)])
        naive = distill(student, teacher, ours.detach().requires_grad_(trains), theirs.detach(), y).kl
    assert abs(float(naive) / float(exact[0].kl) - 1) > 0.05  # one rounding of each is too much


def test_what_is_compiled_breaks_nowhere_and_has_room_for_every_shape():
    """Without a C++ compiler: traced whole, for two heads, every divergence, with a gradient and without."""
    import torch._dynamo as dynamo

    module = sys.modules["salad.objective.distill"]
    dynamo.reset()
    dynamo.utils.counters.clear()
    run = module.compiled(module._between, backend="eager", fullgraph=True)
    assert dynamo.config.recompile_limit >= module.RECOMPILE_LIMIT
    for divergence, wants, v, n in itertools.product(("kl", "reverse_kl", "jsd"), (True, False), (40, 60), (9, 7)):
        logits = torch.randn(2, n, v)
        run(*logits, torch.zeros(n, 1, dtype=torch.long), 0.5, divergence, 1.0, 0.5, wants)
    assert 0 < dynamo.utils.counters["stats"]["unique_graphs"] <= module.RECOMPILE_LIMIT
    dynamo.reset()
