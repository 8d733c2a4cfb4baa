"""easy-VQA's records, and the captions that its questions imply."""

import pytest

from blip_openvino.data.easy_vqa import ANSWERS, load_captions, load_questions


@pytest.mark.parametrize(("split", "questions", "captions"), [("train", 38575, 3132), ("test", 9673, 772)])
def test_splits_have_the_published_questions_and_captions_that_no_question_contradicts(split, questions, captions):
    asked, caption_of = load_questions(split), load_captions(split)
    assert (len(asked), len(caption_of)) == (questions, captions)
    assert {question.answer for question in asked} == set(ANSWERS)
    assert len({question.image_path for question in asked}) == len({question.image_id for question in asked})
    for question in asked:
        if question.answer not in ("yes", "no") and question.image_path in caption_of:
            assert question.answer in caption_of[question.image_path].split()
