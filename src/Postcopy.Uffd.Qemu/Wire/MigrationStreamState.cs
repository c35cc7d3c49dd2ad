using System.Buffers;
using System.Diagnostics.CodeAnalysis;
using System.Text;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// What the connections of one migration share: the phase, the block list, the target page size. The main reader writes it;
/// the reader of the urgent channel, and readers after a reconnect, take it over.
/// </summary>
/// <remarks>Published by volatile writes: the urgent reader's thread may read while the main reader's thread goes on.</remarks>
public sealed class MigrationStreamState
{
    private readonly Dictionary<string, StreamRamBlock> _byName = new(StringComparer.Ordinal);
    private readonly List<StreamRamBlock> _growing = [];
    private volatile StreamRamBlock[] _blocks = [];
    private volatile int _phase;

    /// <summary>How far the migration is.</summary>
    public StreamPhase Phase
    {
        get => (StreamPhase)_phase;
        internal set => _phase = (int)value;
    }

    /// <summary>The source's machine type, for example "pc-i440fx-7.2"; empty before the configuration came.</summary>
    public string MachineType { get; internal set; } = "";

    /// <summary>The source's UUID when it is sent to be compared (validate-uuid).</summary>
    public Guid? Uuid { get; internal set; }

    /// <summary>The unit of RAM records in bytes, 4096 unless the source says otherwise.</summary>
    public int TargetPageSize { get; internal set; } = 1 << QemuWire.DefaultTargetPageBits;

    /// <summary>The OR of all blocks' page sizes, as POSTCOPY_ADVISE announced it; 0 before.</summary>
    public ulong AdvisedPageSizes { get; internal set; }

    /// <summary>The RAM blocks in the order of the list; empty until the list is complete.</summary>
    public IReadOnlyList<StreamRamBlock> Blocks => _blocks;

    internal uint? RamSectionId { get; set; }

    /// <summary>A page came with a checksum: from now on all must.</summary>
    internal bool HasChecksums { get; set; }

    /// <summary>A second main connection came: from now on a host page may come in two parts.</summary>
    internal bool IsResumed { get; set; }

    internal int GrowingCount => _growing.Count;

    /// <summary>Finds a block of the complete list by its name.</summary>
    /// <param name="name">The name.</param>
    /// <param name="block">The block.</param>
    public bool TryFindBlock(string name, [NotNullWhen(true)] out StreamRamBlock? block)
    {
        block = null;
        return _blocks.Length != 0 && _byName.TryGetValue(name, out block);
    }

    /// <summary>Finds a block by the bytes of its name, without allocating.</summary>
    internal bool TryFindBlock(ReadOnlySpan<byte> nameUtf8, [NotNullWhen(true)] out StreamRamBlock? block)
    {
        block = null;
        if (_blocks.Length == 0)
        {
            return false;
        }

        Span<char> name = stackalloc char[ProtocolLimits.MaxNameLength];
        return System.Text.Unicode.Utf8.ToUtf16(nameUtf8, name, out _, out int length, replaceInvalidSequences: false) == OperationStatus.Done
            && _byName.GetAlternateLookup<ReadOnlySpan<char>>().TryGetValue(name[..length], out block);
    }

    /// <summary>Adds the next block of the list being read; false when the name is already in it.</summary>
    internal bool TryAddBlock(string name, long length, long pageSize)
    {
        StreamRamBlock block = new(_growing.Count, name, length, pageSize);
        if (!_byName.TryAdd(name, block))
        {
            return false;
        }

        _growing.Add(block);
        return true;
    }

    internal void CompleteBlocks() => _blocks = [.. _growing];

    internal ulong PageSizesOfBlocks()
    {
        ulong sizes = 0;
        foreach (StreamRamBlock block in _growing)
        {
            sizes |= (ulong)block.PageSize;
        }

        return sizes;
    }

    /// <summary>A name's text, or null when it is not valid UTF-8 and so could not be sent back the same.</summary>
    internal static string? DecodeName(ReadOnlySpan<byte> bytes)
    {
        try
        {
            return s_strictUtf8.GetString(bytes);
        }
        catch (DecoderFallbackException)
        {
            return null;
        }
    }

    private static readonly UTF8Encoding s_strictUtf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);
}
