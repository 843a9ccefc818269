"""TFDS builder of packed datasets (`mmjax prepare --to=DIR`): import it before `tfds.load("mmjax_coco", ...)`.

`tfds.data_source` and `tfds.builder_from_directory` work without it, but TFDS makes no tf.data.Dataset of ArrayRecord.
"""

from typing import Any

from mmjax.data.tfds import tensorflow
from mmjax.data.tfds_layout import NAME, VERSION, make_info


def _builder() -> Any:
    tf = tensorflow()
    import tensorflow_datasets as tfds

    class MmjaxCoco(tfds.core.DatasetBuilder):
        """Images of COCO with their captions, as mmjax prepare wrote them."""

        name = NAME
        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> Any:
            return make_info(self)

        def download_and_prepare(self, **_: Any) -> None:
            if not self.data_path.exists():
                raise tfds.core.DatasetNotFoundError(
                    f"{self.data_path}: no packed data set; make one with mmjax prepare --config=CONFIG --to=DIR"
                )

        def _download_and_prepare(self, **_: Any) -> None:
            raise NotImplementedError

        def _as_dataset(
            self, split: Any, decoders: Any = None, read_config: Any = None, shuffle_files: bool = False
        ) -> Any:
            """Examples in order, or shuffled with shuffle_files."""
            from array_record.python.array_record_data_source import ArrayRecordDataSource

            records = ArrayRecordDataSource(self.info.splits[split].file_instructions)
            indices = tf.data.Dataset.range(len(records))
            if shuffle_files:
                seed = read_config and read_config.shuffle_seed
                reshuffle = read_config.shuffle_reshuffle_each_iteration if read_config else None
                indices = indices.shuffle(max(len(records), 1), seed, reshuffle_each_iteration=reshuffle)
            features = self.info.features
            if isinstance(decoders, tfds.decode.PartialDecoding):
                features, decoders = decoders.extract_features(features), decoders.decoders

            def example(index: Any) -> Any:
                record = tf.numpy_function(lambda i: records[int(i)], [index], tf.string, stateful=False)
                return features.deserialize_example(tf.ensure_shape(record, []), decoders=decoders)

            return indices.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=not shuffle_files)

    return MmjaxCoco


MmjaxCoco = _builder()
