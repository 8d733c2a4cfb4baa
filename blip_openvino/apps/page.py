"""How the demo page looks and reads: its theme, its styles, and templates that show text as text, never as HTML."""

import gradio as gr

from blip_openvino.apps.session import ModelFolder, Reply
from blip_openvino.ir.easy_vqa import ANSWERS, COLOURS, SHAPES, load_questions, question_type

# Fonts of the reader's system: the page asks no other machine for anything, and looks the same without a network.
_SYSTEM_FONTS = [gr.themes.Font(name) for name in ("Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")]
THEME = gr.themes.Default(font=_SYSTEM_FONTS, font_mono=[gr.themes.Font("monospace")]).set(
    # Dark enough on light, and white on the button, for the contrast of 4.5 that WCAG asks for.
    body_text_color_subdued="*neutral_600",
    block_info_text_color="*neutral_600",
    block_label_text_color="*neutral_700",
    block_title_text_color="*neutral_700",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
)

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
.gradio-container h1 { font-size: 1.6rem; font-weight: 600; margin: 0; }
.gradio-container h2 { font-size: 1rem; font-weight: 600; margin: 0; }
.note p { margin: .25rem 0; }
.note summary { cursor: pointer; text-decoration: underline; }
.note dt { font-weight: 600; margin-top: .4rem; }
.note dd { margin: 0; }
.reply output { display: block; min-height: 2.6rem; font-size: 2rem; line-height: 1.3; overflow-wrap: anywhere; }
.reply p { margin: 0; min-height: 1.4rem; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.reply [role=alert]:not(:empty) {
  margin-bottom: .6rem; padding: .6rem .8rem; overflow-wrap: anywhere;
  border-left: .3rem solid #d92d20; border-radius: .3rem; background: var(--block-background-fill);
}
.history ol { list-style: none; margin: .4rem 0 0; padding: 0; }
.history li {
  display: flex; flex-wrap: wrap; gap: .25rem 1rem; justify-content: space-between;
  padding: .45rem 0; border-top: 1px solid var(--border-color-primary); overflow-wrap: anywhere;
}
.history span { max-width: 100%; color: var(--body-text-color-subdued); }
.history strong { max-width: 100%; }
.image-frame img { width: 100%; height: 100%; object-fit: contain; }
footer > :not(button) { display: none !important; }
#examples { gap: .5rem; }
#examples button { justify-content: flex-start; }
#examples button img { width: 2.6rem; height: 2.6rem; object-fit: cover; border-radius: .25rem; }
.gradio-container :is(button, input, textarea, summary, [role=button]):focus-visible {
  outline: 2px solid var(--color-accent); outline-offset: 2px;
}
"""


STAGES = ("load model", "preprocess", "vision", "text encoder", "decoder")


def _template(body: str) -> str:
    """A template of `gr.HTML` in which `plain(text)` shows text as text; `value` itself would be taken for HTML.

    `${...}` is evaluated once, so what it gives is not looked at for more of it; `{{...}}` would be evaluated again.
    """
    plain = '(text) => String(text).replace(/[&<>"\']/g, (one) => "&#" + one.charCodeAt(0) + ";")'
    return f"${{((plain) => {body})({plain})}}"


REPLY = _template(
    '"<section class=reply><div role=alert>" + plain(value.problem) + "</div><h2>" + plain(heading) + "</h2>"'
    ' + "<output aria-live=polite aria-atomic=true aria-busy=" + value.busy + ">" + plain(value.text) + "</output>"'
    ' + "<p>" + plain(value.stages) + "</p></section>"'
)
HISTORY = _template(
    '"<section class=history>" + (value.length ? "<h2>Asked about this image</h2>" : "") + "<ol>" + value.map((turn) =>'
    ' "<li><span>" + plain(turn[0] || "(a caption)") + "</span><strong>" + plain(turn[1]) + "</strong></li>"'
    ').reverse().join("") + "</ol></section>"'
)
NOTE = _template(
    '"<header class=note><h1>BLIP with OpenVINO</h1><p>" + plain(value.model) + "</p>" + (value.limits ?'
    ' "<p>" + plain(value.limits) + "</p><details><summary>Questions and answers it knows</summary><dl>"'
    ' + value.hints.map((hint) => "<dt>" + plain(hint[0]) + "</dt><dd>" + plain(hint[1]) + "</dd>").join("")'
    ' + "</dl></details>" : "") + "</header>"'
)
EXAMPLES = "<h2>Examples</h2>"


def plain_view(template: str, value: object = None, **props: object) -> gr.HTML:
    """A part of the page that shows `value` by one of the templates above."""
    return gr.HTML(value, html_template=template, js_on_load=None, apply_default_css=False, padding=True, **props)


def shown(text: str = "", stages: str = "", problem: str = "", is_final: bool = True) -> dict[str, object]:
    """What `REPLY` shows; screen readers wait for the final text."""
    return {"text": text or "…" * (not is_final), "stages": stages, "problem": problem, "busy": not is_final}


def model_note(models: ModelFolder) -> dict[str, object]:
    """What `NOTE` shows: the model's name and, for one that knows the words of easy-VQA only, its limits and hints."""
    name = f"{models.folder.name}, {models.architecture}"
    if not knows_easy_vqa_only(models):
        return {"model": name, "limits": "", "hints": []}
    limits = (
        f"It knows pictures of one coloured shape, and {len(ANSWERS)} answers. Anything else gets one of them all the "
        "same, and it means nothing."
    )
    forms = [(f"Asks for {kind}", " · ".join(sorted(questions))) for kind, questions in question_forms().items()]
    return {"model": name, "limits": limits, "hints": [["Answers", ", ".join(ANSWERS)], *map(list, forms)]}


def knows_easy_vqa_only(models: ModelFolder) -> bool:
    """Whether every word of the model's vocabulary is one of easy-VQA's questions, answers and captions."""
    words = {
        "?",
        "a",
        *ANSWERS,
        *(word for form in question_forms().values() for each in form for word in each[:-1].split()),
    }
    vocabulary = models.processor.tokenizer.get_vocab()
    return words.issuperset(word for word in vocabulary if not word.startswith("["))


def question_forms() -> dict[str, list[str]]:
    """The forms of easy-VQA's questions by what they ask for: `"colour": ["what color is the shape?", ...], ...`.

    Questions that differ only in the colour or the shape they name are one form, and its first stands for it.
    """
    forms: dict[str, dict[str, str]] = {}
    for question in load_questions("test"):
        words = question.question.rstrip("?").split()
        form = " ".join("COLOUR" if word in COLOURS else "SHAPE" if word in SHAPES else word for word in words)
        forms.setdefault(question_type(question.answer), {}).setdefault(form, question.question)
    return {kind: list(questions.values()) for kind, questions in forms.items()}


def stage_line(reply: Reply, device: str, precision: str) -> str:
    """One line for a reader: `CPU INT8: preprocess 1.2 ms · vision 3.4 ms (new image) · decoder 2.1 ms`."""
    times = {stage: f"{milliseconds:.1f} ms" for stage, milliseconds in reply.milliseconds.items()}
    if reply.image_reused:
        times["vision"] = "0 ms (image reused)"
    elif "vision" in times:
        times["vision"] += " (new image)"
    return f"{device} {precision}: " + " · ".join(f"{stage} {times[stage]}" for stage in STAGES if stage in times)
