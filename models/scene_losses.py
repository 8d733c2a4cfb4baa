"""What BLIP is trained on: captions, answers, and texts matched with pictures, each picture encoded once a step."""

import torch
from scene_data import Examples
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, normalize

FAR_BELOW = torch.finfo(torch.bfloat16).min
COUNTING_WEIGHT = 2.5


def without_padding(ids: Tensor) -> Tensor:
    """Cut `[..., L]` token ids after the longest text."""
    lengths = (ids != 0).sum(-1)
    return ids[..., : max(1, int(lengths.max()))]


def text_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """The mean cross-entropy of the texts `[N, L]`, padded with 0, whose next tokens have `logits` `[N, L, V]`."""
    return cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)


def blocks_mask(blocks: list[Tensor]) -> Tensor:
    """An additive attention mask `[1, 1, L, L]` in which blocks `[n, n]` of 0 and 1 do not see one another."""
    return (1 - torch.block_diag(*blocks))[None, None] * FAR_BELOW


def positions_of(blocks: list[Tensor]) -> Tensor:
    """Position ids `[1, L]` that start anew in each block."""
    return torch.cat([torch.arange(len(block), device=block.device) for block in blocks])[None]


def describe(model, image_embeds: Tensor, texts: list[Tensor]) -> list[Tensor]:
    """Let the decoder say several texts `[B, L_i]` of each picture, in one sequence: logits `[B, L_i, V]` of each."""
    blocks = [torch.ones(ids.shape[1], ids.shape[1], device=ids.device).tril() for ids in texts]
    hidden = model.text_decoder.bert(
        input_ids=torch.cat(texts, 1),
        position_ids=positions_of(blocks),
        attention_mask=blocks_mask(blocks),
        encoder_hidden_states=image_embeds,
        is_decoder=True,
        use_cache=False,
    ).last_hidden_state
    return list(model.text_decoder.cls(hidden).split([ids.shape[1] for ids in texts], 1))


def read(text_encoder, image_embeds: Tensor, input_ids: Tensor) -> Tensor:
    """Run the text encoder on `[B, Q, L]` texts with a look at their pictures `[B, T, H]`: `[B * Q, L, H]`.

    The texts of a picture share one sequence, each blind to the others: cross-attention projects the picture once.
    """
    batch, count, length = input_ids.shape
    blocks = [torch.ones(length, length, device=input_ids.device)] * count
    is_padding = (input_ids == 0).view(batch, 1, 1, count * length)
    hidden = text_encoder(
        input_ids=input_ids.reshape(batch, count * length),
        position_ids=positions_of(blocks),
        attention_mask=blocks_mask(blocks).masked_fill(is_padding, FAR_BELOW),
        encoder_hidden_states=image_embeds,
    ).last_hidden_state
    return hidden.reshape(batch * count, length, -1)


def sample_questions(data: Examples, rows: Tensor, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw `count` questions of each of the pictures `rows`: `[B, count, L]`, and their answers `[B * count, L]`.

    Each kind that a picture has is as likely, however many questions of it there are, but counting, which is learnt
    last, is `COUNTING_WEIGHT` times as likely. Where a picture has fewer than `count`, an answer of padding alone fills
    up; it adds nothing to a loss.
    """
    kinds = data.kinds[rows]
    weights = torch.tensor([COUNTING_WEIGHT if name == "counting" else 1.0 for name in data.kind_names])[kinds]
    questions_of_kind = (kinds[:, :, None] == kinds[:, None]).sum(-1)
    # Weighted sampling without replacement: the largest of u ** (1 / weight) (Efraimidis and Spirakis, 2006).
    order = torch.rand(kinds.shape, generator=generator) ** (questions_of_kind / weights)
    chosen = (order - (kinds < 0).float()).topk(count, dim=1).indices
    questions, answers = data.asked[rows].take_along_dim(chosen[..., None], 1).unbind(2)
    answer_ids = data.answers[answers.flatten()] * (answers.flatten() >= 0)[:, None]
    return without_padding(data.questions[questions.clamp(min=0)]), without_padding(answer_ids)


def answer(model, image_embeds: Tensor, questions: Tensor, answers: Tensor) -> Tensor:
    """Let the decoder answer `[B, Q, L]` questions with `[B * Q, L]`: its logits."""
    embeds = read(model.text_encoder, image_embeds, questions)
    hidden = model.text_decoder.bert(
        input_ids=answers,
        attention_mask=torch.ones_like(answers),
        encoder_hidden_states=embeds,
        encoder_attention_mask=(questions.flatten(0, 1) != 0).long(),
        is_decoder=True,
        use_cache=False,
    ).last_hidden_state
    return model.text_decoder.cls(hidden)


class Contrast(nn.Module):
    """Image-text contrast, as in BLIP (section 3.2 of the paper), but without momentum: projections and temperature."""

    def __init__(self, vision_proj: nn.Linear, text_proj: nn.Linear):
        super().__init__()
        self.vision_proj, self.text_proj = vision_proj, text_proj
        self.log_scale = nn.Parameter(torch.tensor(2.7))

    def forward(self, text_encoder, image_embeds: Tensor, right: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of B pictures `[B, T, H]` with their texts `[B, L]` among all B, and wrong ones `[N, L]`; and the
        similarities [B, B]. Texts begin with "[CLS]"."""
        texts = without_padding(torch.cat([right, wrong]))
        hidden = text_encoder(input_ids=texts, attention_mask=(texts != 0).long()).last_hidden_state
        image_features = normalize(self.vision_proj(image_embeds[:, 0]), dim=-1)
        text_features = normalize(self.text_proj(hidden[:, 0]), dim=-1)
        similarities = image_features.float() @ text_features.float().t() * self.log_scale.exp().clamp(max=100)
        targets = torch.arange(len(right), device=right.device)
        among_pictures = similarities[:, : len(right)].t()
        return (cross_entropy(similarities, targets) + cross_entropy(among_pictures, targets)) / 2, among_pictures.t()
