"""Known errors of VAE code, each as one change of a file of ``vaelib``.

Most were found in published code or are easily made; each must be caught by a test or a claim.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """An error, and who should notice it.

    Parameters
    ----------
    name
        The error in words.
    file
        The file that is changed.
    before, after
        Its text, which occurs there once, and what takes its place.
    tests
        The test files that should fail.
    chapter
        The notebook (without suffix) of which a claim should fail, if one should.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    chapter: str | None = None

    def apply(self, root: Path) -> None:
        """Make the error in the copy of the repository in the folder ``root``.

        Raises
        ------
        ValueError
            If the text to be changed does not occur exactly once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        found = text.count(self.before)
        if found != 1:
            raise ValueError(
                f"{self.name}: {self.before!r} occurs {found} times in {self.file}; expected once. "
                "Adapt tests/mutants.py to the code."
            )
        path.write_text(text.replace(self.before, self.after), encoding="utf-8")


def _in(file: str, name: str, before: str, after: str, *, chapter: str | None) -> Mutant:
    """Return a mutant of a module that the test file of the module should catch."""
    return Mutant(name, f"vaelib/{file}", before, after, (f"tests/test_{file}",), chapter)


THEORY, LIKELIHOODS, BETA = "01_vae_theory", "02_likelihoods", "04_beta_tradeoff"
TRIPLET, M1, SCORING = "05_triplet_latents", "06_m1_semi_supervised", "07_scoring"

MUTANTS: list[Mutant] = [
    # The bound
    _in(
        "objectives.py", "KL without its factor one half",
        "return 0.5 * (mu.square()", "return (mu.square()", chapter=THEORY,
    ),
    _in(
        "objectives.py", "log sigma for log sigma^2 in the KL",
        "mu.square() + logvar.exp() - 1 - logvar",
        "mu.square() + (2 * logvar).exp() - 1 - 2 * logvar", chapter=THEORY,
    ),
    _in(
        "objectives.py", "rate averaged over the latent dimensions",
        "rate = kl_to_standard_normal(q.mu, q.logvar).sum(-1)",
        "rate = kl_to_standard_normal(q.mu, q.logvar).mean(-1)", chapter=THEORY,
    ),
    _in(
        "objectives.py", "distortion averaged over the pixels",
        "    distortion = -model.decode(z).log_prob(x)\n    rate",
        "    distortion = -model.decode(z).log_prob(x) / x[0].numel()\n    rate", chapter=THEORY,
    ),
    _in(
        "objectives.py", "bound at the mean of q in place of a sample",
        "return x, q, q.rsample() if noise is None else q.reparameterize(noise)",
        "return x, q, q.mu", chapter=THEORY,
    ),
    _in(
        "objectives.py", "prior without log 2 pi",
        "return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)",
        "return -0.5 * z.square().sum(-1)", chapter=THEORY,
    ),
    _in(
        "objectives.py", "free bits for the sum of the dimensions",
        "per_unit.clamp(min=nats).sum()", "per_unit.sum().clamp(min=nats)", chapter=None,
    ),
    _in(
        "objectives.py", "variance for standard deviation at the optimal scale",
        "around(mean, variance.sqrt())", "around(mean, variance)", chapter=LIKELIHOODS,
    ),
    _in(
        "objectives.py", "importance-weighted bound without log K",
        "log_w.logsumexp(0) - math.log(len(log_w))", "log_w.logsumexp(0)", chapter=SCORING,
    ),
    _in(
        "objectives.py", "doubly reparameterised gradient without its detach",
        "q = DiagonalNormal(q.mu.detach(), q.logvar.detach(), validate_args=False)",
        "q = DiagonalNormal(q.mu, q.logvar, validate_args=False)", chapter=None,
    ),
    # Posteriors
    _in(
        "posteriors.py", "variance for standard deviation in the sample",
        "return torch.exp(0.5 * self.logvar)", "return torch.exp(self.logvar)", chapter=THEORY,
    ),
    _in(
        "posteriors.py", "log sigma for log sigma^2 from a softplus",
        "F.softplus(rho).square().log()", "F.softplus(rho).log()", chapter=None,
    ),
    # Likelihoods
    _in(
        "likelihoods.py", "Bernoulli from clamped probabilities",
        "TorchBernoulli(logits=logits, validate_args=False)",
        "TorchBernoulli(logits.sigmoid().clamp(1e-5, 1 - 1e-5), validate_args=False)",
        chapter=LIKELIHOODS,
    ),
    _in(
        "likelihoods.py", "variance for standard deviation of the pixels",
        "return self.around(mean, self.log_scale.exp())",
        "return self.around(mean, (2 * self.log_scale).exp())", chapter=LIKELIHOODS,
    ),
    _in(
        "likelihoods.py", "continuous Bernoulli with the normaliser of the Bernoulli",
        "- torch.where(small, near_zero, exact)", "- nn.functional.softplus(self.logits)",
        chapter=LIKELIHOODS,
    ),
    # Models
    _in(
        "models.py", "reconstruction shows the logits",
        "return self.decode(self.embed(x)).mean.to(x.device)",
        "return self.decoder(self.embed(x)).to(x.device)", chapter=LIKELIHOODS,
    ),
    _in(
        "models.py", "uniform codes in place of the prior's",
        "z = torch.randn(\n", "z = torch.rand(\n", chapter=BETA,
    ),
    _in(
        "models.py", "density in the 16 bits of autocast",
        "return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output",
        "return output", chapter=None,
    ),
    # Networks
    _in(
        "networks.py", "non-linearity after the last layer",
        "return nn.Sequential(*layers[:-1])", "return nn.Sequential(*layers)", chapter=THEORY,
    ),
    _in(
        "networks.py", "first weights from the global stream",
        "nn.init.xavier_uniform_(layer.weight, generator=rng)",
        "nn.init.xavier_uniform_(layer.weight)", chapter=None,
    ),
    # Training
    _in(
        "training.py", "epochs without a permutation",
        "order = torch.randperm(len(images), generator=batch_rng, device=device)",
        "order = torch.arange(len(images), device=device)", chapter=THEORY,
    ),
    _in(
        "training.py", "last partial batch dropped",
        "for index in order.split(batch_size):",
        "for index in order.split(batch_size)[: len(order) // batch_size]:", chapter=None,
    ),
    _in(
        "training.py", "beta without effect",
        "loss = (distortion + beta * rate).mean()", "loss = (distortion + rate).mean()",
        chapter=BETA,
    ),
    _in(
        "training.py", "gradients of all steps added up",
        "    optimizer.zero_grad()\n", "", chapter=THEORY,
    ),
    _in(
        "training.py", "gradient clipped after the step",
        "    if max_grad_norm < math.inf:\n"
        "        clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)\n"
        "    optimizer.step()\n",
        "    optimizer.step()\n"
        "    if max_grad_norm < math.inf:\n"
        "        clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)\n",
        chapter=None,
    ),
    _in(
        "training.py", "weight decay on biases",
        '{"params": others, "weight_decay": 0.0}', '{"params": others}', chapter=None,
    ),
    _in(
        "training.py", "schedule one step ahead",
        "lr=lr(step / steps),", "lr=lr((step + 1) / steps),", chapter=None,
    ),
    _in(
        "training.py", "training in evaluation mode",
        "            model.train()\n", "", chapter=M1,
    ),
    _in(
        "training.py", "beta in the reported bound",
        "                history.measure(model, measured, epoch=epoch)\n",
        "                history.measure(model, measured, epoch=epoch)\n"
        "                for curve in (history.train, history.test):\n"
        "                    for r in curve[-1:]:\n"
        "                        rate = beta(step / steps) * r.rate\n"
        "                        curve[-1] = Report(r.distortion, rate, r.standard_error, r.n)\n",
        chapter=BETA,
    ),
    _in(
        "training.py", "training curve on test images",
        '{"train": fixed_subset(images, ',
        '{"train": fixed_subset(images if test is None else test, ', chapter=THEORY,
    ),
    _in(
        "training.py", "snapshots that are the live weights",
        "value.detach().clone().cpu()", "value.detach().cpu()", chapter=THEORY,
    ),
    # Sweeps
    _in(
        "sweeps.py", "a sweep in which all models have beta 1",
        "(beta * rate).sum(0)", "rate.sum(0)", chapter=BETA,
    ),
    _in(
        "sweeps.py", "weight decay on the stacked biases of a sweep",
        "for name, weight in bounds[0].named_parameters() if",
        "for name, weight in weights.items() if", chapter=None,
    ),
    # Schedules
    _in(
        "schedules.py", "fall that forgets the warm-up before it",
        "fall((progress - warmup) / (1 - warmup))", "fall(progress)", chapter=None,
    ),
    _in(
        "schedules.py", "cycles that do not reach their end",
        "one(progress * cycles % 1.0)", "one(progress % (1 / cycles))", chapter=BETA,
    ),
    # Seeding
    _in(
        "seeding.py", "one stream for all purposes",
        'f"{stream}/{seed}"', 'f"{seed}"', chapter=None,
    ),
    # Evaluation
    _in(
        "evaluation.py", "mean of batch means",
        "return Report(float(distortion.mean()),",
        "distortion = torch.stack([part.mean() for part in distortion.split(batch_size)])\n"
        "    return Report(float(distortion.mean()),",
        chapter=None,
    ),
    _in(
        "evaluation.py", "evaluation in training mode",
        "    model.eval()\n", "", chapter=M1,
    ),
    _in(
        "evaluation.py", "evaluation without a fixed seed",
        'generator=generator(seed, "evaluation"))\n    objective = ', ")\n    objective = ",
        chapter=THEORY,
    ),
    _in(
        "evaluation.py", "log-likelihood without log k",
        "LogLikelihood(log_sum - math.log(k),", "LogLikelihood(log_sum,", chapter=SCORING,
    ),
    _in(
        "evaluation.py", "importance weights without q",
        "+ log_prior(z) - q.log_prob(z)", "+ log_prior(z)", chapter=SCORING,
    ),
    _in(
        "evaluation.py", "exponentials without a shift",
        "torch.stack((log_w.logsumexp(0),", "torch.stack((log_w.exp().sum(0).log(),",
        chapter=SCORING,
    ),
    _in(
        "evaluation.py", "active units along the wrong axis",
        ".mu.var(0) > threshold", ".mu.var(1) > threshold", chapter=BETA,
    ),
    _in(
        "evaluation.py", "median for mean of the rate of a unit",
        "return kl_to_standard_normal(q.mu, q.logvar).mean(0)",
        "return kl_to_standard_normal(q.mu, q.logvar).median(0).values", chapter=BETA,
    ),
    _in(
        "evaluation.py", "sum over pixels in the mean squared error",
        ".square().flatten(1).mean(1).sqrt()", ".square().flatten(1).sum(1).sqrt()",
        chapter=LIKELIHOODS,
    ),
    _in(
        "evaluation.py", "the first images for a random subset",
        'chosen = torch.randperm(len(images), generator=generator(0, "subset"))[:n]',
        "chosen = torch.arange(n)", chapter=None,
    ),
    # Single-image posteriors and the aggregate posterior
    _in(
        "svi.py", "posteriors fitted without the KL",
        "loss = (distortion + kl_to_standard_normal(mu, logvar).sum(-1)).sum()",
        "loss = distortion.sum()", chapter=SCORING,
    ),
    _in(
        "aggregate.py", "mutual information without log N",
        " + math.log(len(z))", "", chapter=SCORING,
    ),
    _in(
        "aggregate.py", "density of standardised codes without the Jacobian",
        "(log_prob - self._scale.double().log().sum()).to(z.dtype)", "log_prob.to(z.dtype)",
        chapter=BETA,
    ),
    # Corruption
    _in(
        "corruption.py", "images changed while evaluating, too",
        "        if not self.training:\n            return x\n", "", chapter=M1,
    ),
    # Triplet loss, supervision and separation
    _in(
        "triplet.py", "triplet loss with the wrong sign",
        "loss = (gap + margin).relu()", "loss = (margin - gap).relu()", chapter=TRIPLET,
    ),
    _in(
        "triplet.py", "triplet loss without its margin",
        "loss = (gap + margin).relu()", "loss = gap.relu()", chapter=TRIPLET,
    ),
    _in(
        "triplet.py", "the farthest negative for the hardest",
        "amin(1)\n    return farthest_positive - nearest_negative",
        "nan_to_num(posinf=0).amax(1)\n    return farthest_positive - nearest_negative",
        chapter=TRIPLET,
    ),
    _in(
        "triplet.py", "an anchor that is its own positive",
        "same & (index.unsqueeze(1) != index)", "same", chapter=TRIPLET,
    ),
    _in(
        "triplet.py", "no gradient between codes that coincide",
        "(z.unsqueeze(1) - z).norm(dim=-1)", "(z.unsqueeze(1) - z).square().sum(-1).sqrt()",
        chapter=TRIPLET,
    ),
    _in(
        "supervision.py", "labels of other images than those drawn",
        "their_labels[drawn]", "their_labels[: len(drawn)]", chapter=TRIPLET,
    ),
    _in(
        "separation.py", "neighbours sought among the test codes",
        "voters.fit(train_z.detach().cpu().numpy(), train_labels.cpu().numpy())",
        "voters.fit(z.detach().cpu().numpy(), labels.cpu().numpy())", chapter=TRIPLET,
    ),
    # Semi-supervised classification
    _in(
        "semisupervised.py", "hidden labels that are not hidden",
        "hidden = torch.full_like(labels, UNLABELLED)", "hidden = labels.clone()", chapter=M1,
    ),
    _in(
        "semisupervised.py", "all labels for the classifier",
        "fit(x[seen], known[seen].numpy())", "fit(x[seen], labels[seen].numpy())", chapter=M1,
    ),
    _in(
        "semisupervised.py", "labels of the graph that count as much as true ones",
        "np.where(labelled, 1.0, self.weight)", "np.where(labelled, 1.0, 1.0)", chapter=None,
    ),
    # Quality of samples
    _in(
        "sample_quality.py", "precision and recall swapped",
        "return _share(inside_real.any(1)), _share(inside_generated.any(1))",
        "return _share(inside_generated.any(1)), _share(inside_real.any(1))", chapter=BETA,
    ),
    _in(
        "sample_quality.py", "coverage along the wrong axis",
        "<= _radii(real, k)).any(0))", "<= _radii(real, k)).any(1))", chapter=SCORING,
    ),
    # Data
    _in(
        "data.py", "test images in the training set",
        "train=Split(images[:-500], labels[:-500])", "train=Split(images, labels)", chapter=None,
    ),
    _in(
        "data.py", "validation images in the part for training",
        "return self._part(slice(self.n_validation, None))", "return self.train", chapter=None,
    ),
    _in(
        "data.py", "threshold for a random binarisation",
        "return torch.bernoulli(images, generator=generator)",
        "return (images > 0.5).to(images.dtype)", chapter=LIKELIHOODS,
    ),
]  # fmt: skip
