"""What pre-training asks of the engine: a masked autoencoder's loss for each image of a batch."""

from selectivemae.data.batch import Batch
from selectivemae.engine.optim import decay_groups
from selectivemae.engine.precision import attention_kernel
from selectivemae.engine.state import StepOutput
from selectivemae.models.masked import MaskedAutoencoder


class PretrainObjective:
    """Normalise on the device, select, encode, reconstruct, compare."""

    def __init__(self, model: MaskedAutoencoder, weight_decay: float) -> None:
        self._model = model
        self.weight_decay = weight_decay

    @property
    def model(self) -> MaskedAutoencoder:
        """The masked autoencoder."""
        return self._model

    def parameter_groups(self) -> list[dict]:
        """Weight decay on matrices only."""
        return decay_groups(self.model.named_parameters(), self.weight_decay)

    def step(self, batch: Batch, progress: float) -> StepOutput:
        """Loss of each image (B,) fp32."""
        model = self.model
        images = model.normalise(batch.images)
        with attention_kernel(model.longest_sequence, images.device):
            return StepOutput(model(images, batch.key, model.phase(progress, images.device)))
