using Postcopy.Uffd.Qemu.Interop;

namespace Postcopy.Uffd.Qemu;

/// <summary>A stream that reads into several buffers with one call, as sockets do: recordings that are played from files.</summary>
internal unsafe interface IScatteredStream
{
    /// <summary>Reads what is there, at least one byte unless the end is reached.</summary>
    /// <param name="vectors">Native memory.</param>
    /// <param name="count">How many.</param>
    int Read(Libc.IoVector* vectors, int count);
}
