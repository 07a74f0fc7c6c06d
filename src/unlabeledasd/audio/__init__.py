"""Read audio files to the last sample.

The audio library takes what a header declares, or what there is if that is less, without a word.
So the structure of a file is looked at before it is decoded. A file that shows that a part of it is
missing is refused. One whose header has no size (a pipe, a recorder that was stopped), or too small
a one, is read as far as it goes.
"""

from unlabeledasd.audio.file import AudioFile, unreadable

__all__ = ["AudioFile", "unreadable"]
