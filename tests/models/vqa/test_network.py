"""Audits of the whole network: what learns, what is seen, and that samples do not depend on each other."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from geometry import InputError
from models.vggt import WeightIdentity
from models.vqa.config import LORA_TARGETS
from models.vqa.language import TextCodec, load_language, transformers_library
from models.vqa.network import SceneInputs, SceneQA, is_base
from models.vqa.weights import load_network, load_published_perceiver, read_weights, save_weights
from tests.models.vqa.tiny import ANSWERS, CONFIG, QUESTIONS, tiny_inputs, tiny_network


@pytest.fixture(scope="module")
def network() -> SceneQA:
    return tiny_network()


def losses_of(network: SceneQA, inputs: SceneInputs) -> torch.Tensor:
    count = len(inputs.features)
    return network.losses(inputs, network.prompts.training(QUESTIONS[:count], ANSWERS[:count])).sums.detach()


def test_gradients_reach_all_that_learns_and_nothing_else() -> None:
    network = tiny_network().train()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    network.losses(tiny_inputs(), network.prompts.training(QUESTIONS, ANSWERS)).mean.backward()
    assert all(parameter.grad is not None for parameter in learning)
    optimizer.step()
    same = {name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])}
    assert same == {name for name in before if is_base(name)}


def test_every_views_features_change_the_loss(network: SceneQA) -> None:
    inputs = tiny_inputs()
    expected = losses_of(network, inputs)
    for view in range(3):
        features = inputs.features.clone()
        features[:, view] += 1
        changed = losses_of(network, SceneInputs(features, inputs.view_mask, inputs.geometry, inputs.geometry_mask))
        assert (changed != expected).all()


def test_permuting_views_permutes_what_their_codes_say() -> None:
    """Views in another order, with codes and geometry tokens in that order, are the same views."""
    network = tiny_network()
    inputs, order = tiny_inputs(), torch.tensor([2, 0, 1])
    inputs = SceneInputs(inputs.features, inputs.view_mask, inputs.geometry, torch.zeros(3, dtype=torch.bool))
    expected = losses_of(network, inputs)
    moved = SceneInputs(inputs.features[:, order], inputs.view_mask, inputs.geometry, inputs.geometry_mask)
    assert (losses_of(network, moved) - expected).abs().min() > 1e-4  # "view 2" is another one now
    with torch.no_grad():
        network.visual.view_code[:3] = network.visual.view_code[order]
    torch.testing.assert_close(losses_of(network, moved), expected)


def test_a_batch_is_its_samples(network: SceneQA) -> None:
    inputs = tiny_inputs()
    inputs.view_mask[1, 2] = False
    losses = losses_of(network, inputs)
    together = network.answer(inputs, QUESTIONS, max_new_tokens=5)
    for index in range(3):
        one = inputs[index : index + 1]
        rows = network.prompts.training(QUESTIONS[index : index + 1], ANSWERS[index : index + 1])
        torch.testing.assert_close(network.losses(one, rows).sums.detach()[0], losses[index])
        alone = network.answer(one, QUESTIONS[index : index + 1], max_new_tokens=5)
        assert (alone.texts[0], alone.stopped[0]) == (together.texts[index], together.stopped[index])


def test_hidden_views_and_unknown_geometry_are_not_read(network: SceneQA) -> None:
    inputs = tiny_inputs()
    inputs.view_mask[:, 1] = False
    expected = losses_of(network, inputs)
    inputs.features[:, 1] = 100.0
    inputs.geometry[-1] = torch.nan
    assert torch.equal(losses_of(network, inputs), expected)


def test_what_is_in_memory_at_once_makes_no_difference() -> None:
    network = tiny_network().train()
    inputs, rows = tiny_inputs(), network.prompts.training(QUESTIONS, ANSWERS)
    gradients = []
    for micro_batch in (0, 2):
        network.zero_grad()
        losses = network(inputs, rows, micro_batch=micro_batch)
        losses.mean.backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_answers_end_by_themselves_when_the_terminator_is_likeliest(network: SceneQA) -> None:
    """The exactness of a loss is what greedy decoding gives."""
    inputs = tiny_inputs(1)
    answer = network.answer(inputs, QUESTIONS[:1], max_new_tokens=4)
    rows = network.prompts.training(QUESTIONS[:1], [answer.texts[0]])
    assert bool(network.losses(inputs, rows).is_exact[0]) == (answer.stopped[0])


def test_the_base_stays_out_of_the_state(network: SceneQA) -> None:
    state = network.state_dict()
    assert not [name for name in state if is_base(name)]
    other = tiny_network()
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    other.load_state_dict(state)  # strictly
    assert torch.equal(losses_of(other, tiny_inputs()), losses_of(network, tiny_inputs()))


def test_weight_files_are_what_was_trained(network: SceneQA, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, network, WeightIdentity("vggt", "abc"), 96, about={"commit": "c"})
    loaded, found = load_network(path)
    assert torch.equal(losses_of(loaded, tiny_inputs()), losses_of(network, tiny_inputs()))
    assert (found.image_size, found.vggt.sha256, found.config, found.about["commit"]) == (96, "abc", CONFIG, "c")
    keys = set(load_file(path))
    assert {key.split(".")[0] for key in keys} == {"visual", "perceiver", "geometry", "adapter"}
    with pytest.raises(InputError, match=r"trained on language model tiny:1 .*, got tiny:2"):
        load_network(path, "tiny:2")
    metadata, tensors = read_weights(path)
    del tensors["perceiver.latents"]
    save_file(tensors, tmp_path / "b.safetensors", metadata=_metadata(path))
    with pytest.raises(InputError, match=r"got 1 that differ: .*perceiver.latents"):
        load_network(tmp_path / "b.safetensors")
    assert metadata.language.name == "tiny:1"


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("targets", [LORA_TARGETS, ("o_proj", "lm_head")])
def test_merged_weights_do_the_same_in_transformers(targets: tuple[str, ...], tmp_path: Path) -> None:
    """A head that has changed is no longer the table of words."""
    network = tiny_network(replace(CONFIG, lora=replace(CONFIG.lora, targets=targets)))
    network.language.save_merged(tmp_path)
    plain = transformers_library().AutoModelForCausalLM.from_pretrained(tmp_path)
    rows = network.prompts.training(QUESTIONS, ANSWERS)
    visual = network.visual_embeddings(tiny_inputs())
    embeddings = network.embedded(rows, visual)
    with torch.no_grad():
        expected = network.language.logits(network.language.hidden(embeddings, rows.attention_mask, rows.position_ids))
        found = plain(
            inputs_embeds=embeddings, attention_mask=rows.attention_mask.long(), position_ids=rows.position_ids
        ).logits
    shown = rows.attention_mask
    torch.testing.assert_close(found[shown], expected[shown], atol=1e-4, rtol=1e-4)
    assert (tmp_path / "tokenizer.json").is_file()


def test_published_projectors_load_strictly(network: SceneQA, tmp_path: Path) -> None:
    own = network.perceiver.state_dict()
    save_file({key: torch.zeros_like(value) for key, value in own.items()}, tmp_path / "p.safetensors")
    with torch.no_grad():
        copy = tiny_network()
        load_published_perceiver(tmp_path / "p.safetensors", copy.perceiver)
        assert copy.perceiver.latents.abs().max() == 0
    save_file({"latents": own["latents"].clone()}, tmp_path / "q.safetensors")
    with pytest.raises(InputError, match="expected the sizes of --perceiver"):
        load_published_perceiver(tmp_path / "q.safetensors", copy.perceiver)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "expected tiny, a folder or a hub id"),
        ("tiny:x", "expected a number"),
        ("tests", "expected config.json there"),
    ],
)
def test_a_missing_language_model_is_named(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_language(source)


def test_a_tokenizer_without_qwens_tokens_is_refused() -> None:
    class Empty:
        def get_vocab(self) -> dict[str, int]:
            return {}

    with pytest.raises(InputError, match="expected the special token"):
        TextCodec(Empty()).special("<|image_pad|>")
