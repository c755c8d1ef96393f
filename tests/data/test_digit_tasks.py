import torch

from lit_distill.data import Digits, DigitTasks


def test_they_are_the_digits_with_two_labels() -> None:
    tasks, digits = DigitTasks(train_size=100), Digits(train_size=100)
    for data in (tasks, digits):
        data.setup("fit")
        data.setup("test")
    for both, plain in zip(
        (tasks.train_data, tasks.val_data, tasks.test_data),
        (digits.train_data, digits.val_data, digits.test_data),
        strict=True,
    ):
        assert len(both) == len(plain)  # type: ignore[arg-type]
        for index in range(0, len(both), 13):  # type: ignore[arg-type]
            image, labels = both[index]
            expected, digit = plain[index]
            assert torch.equal(image, expected)
            assert labels == {"digit": digit, "parity": int(digit) % 2}


def test_a_batch() -> None:
    data = DigitTasks(batch_size=7)
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (7, 1, 8, 8)
    assert labels["digit"].shape == (7,)
    assert torch.equal(labels["digit"] % 2, labels["parity"])
