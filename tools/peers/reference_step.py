"""Times the reference's model in PyTorch; run by benchmark.py.

python tools/peers/reference_step.py CLONE SETTING FORM

CLONE is a clone of the reference's repository and SETTING a JSON object with the fields of
benchmarks/network.py's `Setting`. FORM is `as_is` (as in the training function, contiguous) or
`best` (channels_last, torch.compile where it works, autocast if the setting asks for bfloat16). The
enlarged batch is built as in the training function, from clips in memory. Like on avjax's side,
nothing is loaded or augmented. Prints one line of JSON.
"""

import json
import sys
import time

import peak_memory
import torch


def enlarge(audio, video, target, mask):
    """Returns the reference's enlarged, shuffled batch."""
    if mask == "noise":
        audio = torch.cat((audio, torch.randn_like(audio), audio))
        video = torch.cat((video, video, torch.randn_like(video)))
        target = target.repeat(3)
    elif mask == "softhard":
        share = torch.randint(0, 100, (len(audio), 1, 1), device=audio.device) / 100
        video_share = (1 - share)[..., None, None]
        audio = torch.cat((audio, audio * share, torch.zeros_like(audio), audio))
        video = torch.cat((video, video * video_share, video, torch.zeros_like(video)))
        target = target.repeat(4)
    order = torch.randperm(len(audio), device=audio.device)
    return audio[order], video[order], target[order]


def images(video, best):
    """Returns the video as ``[clips * frames, 3, h, w]``."""
    video = video.permute(0, 2, 1, 3, 4).flatten(0, 1)
    return video.contiguous(memory_format=torch.channels_last) if best else video.contiguous()


def main(clone: str, text: str, form: str) -> None:
    """Builds the model, warms up and times the steps."""
    setting, best = json.loads(text), form == "best"
    torch.set_num_threads(setting["threads"])
    sys.path.insert(0, clone)
    from models.multimodalcnn import MultiModalCNN

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        setting["precision"] == "tf32"
    )
    torch.manual_seed(0)
    frames, size, batch = setting["frames"], setting["size"], setting["batch"]
    model = MultiModalCNN(8, setting["fusion"], seq_length=frames, num_heads=1).to(device)
    if best:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=0.9, dampening=0.9, weight_decay=1e-3
    )
    criterion = torch.nn.CrossEntropyLoss()
    autocast = torch.autocast(device, torch.bfloat16, enabled=setting["dtype"] == "bfloat16")
    clips = (
        torch.randn(batch, 10, 156, device=device),
        torch.rand(batch, 3, frames, size, size, device=device),
        torch.randint(0, 8, (batch,), device=device),
    )
    run, compiled = model, False

    def train():
        with torch.no_grad():
            audio, video, target = enlarge(*clips, setting["mask"])
            video = images(video, best)
        with autocast:
            loss = criterion(run(audio, video), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def forward():
        with torch.no_grad(), autocast:
            run(clips[0], images(clips[1], best))

    def step():
        model.train(setting["what"] == "step")
        train() if setting["what"] == "step" else forward()

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    note = ""
    if best:
        try:
            run = torch.compile(model)
            step()
            compiled = True
        except Exception as error:  # backends fail in many ways: fall back to eager
            run, note = model, f"torch.compile: {type(error).__name__}"
    step()
    step()
    wait()
    peak_memory.start()
    times, calls = [], setting["calls"]
    for _ in range(-(-setting["steps"] // calls)):
        start = time.perf_counter()
        for _ in range(calls):
            step()
        wait()
        times.append((time.perf_counter() - start) / calls)
    memory = peak_memory.bytes_since_start()
    if device == "cuda":
        memory = torch.cuda.max_memory_allocated()
    result = {"seconds": times, "memory": memory, "compiled": compiled, "note": note}
    print(json.dumps({**result, "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
