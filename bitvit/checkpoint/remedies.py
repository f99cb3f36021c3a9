"""What to do about a file that cannot be read: the ends of messages."""

__all__ = ["FETCH_AGAIN", "GIVE_CHECKPOINT", "RESAVE", "UNPACK"]

RESAVE = (
    "if you trust the file, save the weights alone in the environment it was made in: "
    "torch.save({'model': model.state_dict()}, 'weights.pth')"
)
FETCH_AGAIN = "copy or download the file again"
GIVE_CHECKPOINT = "give the training checkpoint (.pth or .safetensors)"
UNPACK = "unpack it and give the checkpoint inside"
