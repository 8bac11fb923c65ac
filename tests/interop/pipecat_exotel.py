"""pipecat's own reader and writer of Exotel's messages: run in pipecat's environment, over pipes.

``read RATE_HZ`` reads Exotel messages, one a line, and writes the PCM16 that pipecat makes of them, each
message's with its length before it. ``write RATE_HZ SAMPLES`` reads PCM16 and writes the messages that
pipecat makes of that many samples at a time, one a line.
"""

import asyncio
import struct
import sys

from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame
from pipecat.serializers.exotel import ExotelFrameSerializer

LENGTH = struct.Struct("<I")
BYTES_PER_SAMPLE = 2


def serializer(rate_hz: int) -> ExotelFrameSerializer:
    # The pipeline's rate is set to the line's, as its resampler is not what is asked about here.
    made = ExotelFrameSerializer(
        "stream-1",
        params=ExotelFrameSerializer.InputParams(exotel_sample_rate=rate_hz, sample_rate=rate_hz),
    )
    made._sample_rate = rate_hz
    return made


async def read(rate_hz: int) -> None:
    exotel = serializer(rate_hz)
    for line in sys.stdin:
        frame = await exotel.deserialize(line)
        pcm = frame.audio if isinstance(frame, InputAudioRawFrame) else b""
        sys.stdout.buffer.write(LENGTH.pack(len(pcm)) + pcm)


async def write(rate_hz: int, samples: int) -> None:
    exotel = serializer(rate_hz)
    while pcm := sys.stdin.buffer.read(samples * BYTES_PER_SAMPLE):
        message = await exotel.serialize(OutputAudioRawFrame(pcm, rate_hz, 1))
        sys.stdout.write(f"{message}\n")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[2:]]
    asyncio.run(read(*numbers) if sys.argv[1] == "read" else write(*numbers))
