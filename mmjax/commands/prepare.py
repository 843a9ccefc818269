"""mmjax prepare: data, tokenizers and components, before training."""

import argparse
from pathlib import Path

from mmjax import data
from mmjax.config import Config
from mmjax.engine import components, memory, preflight, setup
from mmjax.engine.train import starts_from, train
from mmjax.export.load import read_text_tokenizer
from mmjax.files import check_writable
from mmjax.parallel import processes
from mmjax.terminal import printable
from mmjax.train import loop
from mmjax.train.workdir import open_workdir, workdir_lock
from mmjax.types import UserError

HELP = (
    "Check the data set of a config and train its text tokenizer; for a masked generator also train its visual "
    "tokenizer and encode the data set. mmjax train does all of this if needed. With --to, write the data set as "
    "ArrayRecord shards instead, for --config.data.source=coco_packed --config.data.root=DIR. Resumes if interrupted, "
    "and repairs corrupt files."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--workdir", type=Path, help="workdir of the training, for tokenizers and codes")
    where.add_argument("--to", type=Path, metavar="DIR", help="folder for the shards of coco_folder or coco_tfds")
    parser.add_argument(
        "--resize",
        type=int,
        metavar="PIXELS",
        help="with --to: reduce longer short sides to this length, at least data.resize (default: keep files as is)",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="with --to: number of parallel jobs (default: one per core)"
    )
    parser.add_argument(
        "--shard-size", type=int, metavar="IMAGES", help=f"with --to: images per shard (default: {data.SHARD_SIZE})"
    )


def run(arguments: argparse.Namespace) -> int:
    options = {name: getattr(arguments, name) for name in ("resize", "jobs", "shard_size")}
    options = {name: value for name, value in options.items() if value is not None}
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if arguments.to is None:
            raise UserError(f"{flag}: goes with --to=DIR")
        if value < 1:
            raise UserError(f"{flag}: must be 1 or more, not {value}")
    if arguments.to is not None:
        return _shards(arguments, options)
    workdir: Path = arguments.workdir
    config = components.resolve_config(arguments.config, workdir, arguments.plugins)
    setup.check(config)
    memory.check_batches(config)
    with workdir_lock(workdir):
        processes.run_on_primary(lambda: preflight.check(config, workdir))
        return _prepare(config, workdir)


def _shards(arguments: argparse.Namespace, options: dict[str, int]) -> int:
    config: Config = arguments.config
    if 0 < options.get("resize", 0) < config.data.resize:
        raise UserError(
            f"--resize: {options['resize']} is smaller than data.resize, {config.data.resize}, so that training would "
            "enlarge images again"
        )
    check_writable(arguments.to, folder=True)
    raw = data.open_raw(config.data)
    cache = data.write_packed(arguments.to, raw, **options)
    counts = ", ".join(
        f"{name} {data.num_examples(cache, name):,} kept, {len(data.rejected(cache, name)):,} rejected" for name in raw
    )
    then = f"train with --config.data.source=coco_packed --config.data.root={arguments.to}"
    print(printable(f"{arguments.to}: {counts}; {then}"))
    return 0


def _prepare(config: Config, workdir: Path) -> int:
    start_from = starts_from(config, workdir)
    if config.pretraining is not None and (status := _prepare(config.pretraining, Path(start_from))):
        return status
    status, frozen = components.prepare(config, workdir, train)
    if status:
        return loop.exit_status(status)
    training, held_out = components.sources(config, workdir, frozen, repair=True)
    processes.run_on_primary(lambda: open_workdir(workdir, config))
    pretrained = read_text_tokenizer(start_from) if start_from else None
    tokenizer = setup.prepare_tokenizer(workdir, config, training, pretrained)
    evaluation = data.evaluation_size(held_out, config)
    encoded = f"; visual tokens: {config.tokens.cache or workdir / 'tokens'}" if setup.is_on_codes(config) else ""
    processes.log_primary(
        f"{config.name}: {training.size:,} training and {evaluation:,} evaluation examples, "
        f"{tokenizer.size:,} text tokens; tokenizer: {data.tokenizer_file(workdir)}{encoded}"
    )
    return 0
