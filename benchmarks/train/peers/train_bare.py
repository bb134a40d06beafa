"""The bare loop: PyTorch, the model, the optimizer, and nothing around them."""

from common import asked, build_model, build_optimizer, plain_loop


def main() -> None:
    """Train on the task."""
    task = asked()
    model = build_model(task)
    plain_loop(model, model.parameters(), build_optimizer(model, task), task)


if __name__ == "__main__":
    main()
