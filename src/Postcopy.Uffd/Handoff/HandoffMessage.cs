using System.Buffers.Binary;
using System.Text;

namespace Postcopy.Uffd;

/// <summary>
/// The first message of a hand-over, owner to handler, version 1: docs/out-of-process.md has it byte by byte. All
/// numbers are little-endian. With its first byte travel the descriptors: the userfaultfd, the shared state, the owner's
/// pidfd, then the memory files.
/// </summary>
internal sealed record HandoffMessage(UffdFeatures Features, long StateLength, IReadOnlyList<HandoffBlock> Blocks, int Descriptors)
{
    internal const int HeaderBytes = 64;
    internal const int BlockBytes = 64;
    internal const int MaxBytes = 1 << 20;
    internal const int MaxBlocks = 1024;
    internal const int MajorVersion = 1;
    internal const int MinorVersion = 0;

    /// <summary>Descriptors that every hand-over carries: userfaultfd, state, pidfd.</summary>
    internal const int FixedDescriptors = 3;

    internal static ReadOnlySpan<byte> Magic => "PCHANDOF"u8;

    internal byte[] Encode()
    {
        using MemoryStream message = new();
        Span<byte> header = stackalloc byte[HeaderBytes];
        Magic.CopyTo(header);
        BinaryPrimitives.WriteUInt16LittleEndian(header[8..], MajorVersion);
        BinaryPrimitives.WriteUInt16LittleEndian(header[10..], MinorVersion);
        BinaryPrimitives.WriteInt32LittleEndian(header[16..], Blocks.Count);
        BinaryPrimitives.WriteInt32LittleEndian(header[20..], Descriptors);
        BinaryPrimitives.WriteUInt64LittleEndian(header[24..], (ulong)Features);
        BinaryPrimitives.WriteInt64LittleEndian(header[32..], StateLength);
        Write(message, header);
        Span<byte> entry = stackalloc byte[BlockBytes];
        foreach (HandoffBlock block in Blocks)
        {
            byte[] name = Encoding.UTF8.GetBytes(block.Name);
            entry.Clear();
            BinaryPrimitives.WriteUInt64LittleEndian(entry, block.Range.Start);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], block.Range.Length);
            BinaryPrimitives.WriteInt64LittleEndian(entry[16..], block.PageSize.Bytes);
            BinaryPrimitives.WriteInt64LittleEndian(entry[24..], block.SourceOffset);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[32..], (ulong)block.Modes);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[40..], (ulong)block.Operations);
            BinaryPrimitives.WriteInt64LittleEndian(entry[48..], block.BitmapOffset);
            BinaryPrimitives.WriteInt32LittleEndian(entry[56..], block.Memory);
            BinaryPrimitives.WriteUInt16LittleEndian(entry[60..], block.Shared ? (ushort)1 : (ushort)0);
            BinaryPrimitives.WriteUInt16LittleEndian(entry[62..], (ushort)name.Length);
            Write(message, entry);
            Write(message, name);
            Write(message, new byte[Padding(name.Length)]);
        }

        byte[] bytes = message.ToArray();
        if (bytes.Length > MaxBytes || Blocks.Count > MaxBlocks || Descriptors > DescriptorSocket.MaxDescriptors)
        {
            throw new HandoffException(
                $"{Blocks.Count} blocks with {Descriptors} descriptors make a hand-over of {bytes.Length} bytes; it holds {MaxBlocks} blocks, {DescriptorSocket.MaxDescriptors} descriptors and {MaxBytes} bytes.");
        }

        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(12), bytes.Length);
        return bytes;
    }

    /// <summary>Bytes of the whole message, from its header.</summary>
    /// <exception cref="HandoffException">It is no hand-over of a version that is known here, or longer than allowed.</exception>
    internal static int LengthOf(ReadOnlySpan<byte> header)
    {
        if (!header[..Magic.Length].SequenceEqual(Magic))
        {
            throw new HandoffException("The message is no hand-over: it begins with neither PCHANDOF nor '['.");
        }

        int major = BinaryPrimitives.ReadUInt16LittleEndian(header[8..]);
        if (major != MajorVersion)
        {
            throw new HandoffException($"The hand-over has version {major}; version {MajorVersion} is spoken here. Use the same release on both sides.");
        }

        uint length = BinaryPrimitives.ReadUInt32LittleEndian(header[12..]);
        return length is >= HeaderBytes and <= MaxBytes
            ? (int)length
            : throw new HandoffException($"The hand-over claims {length} bytes; it has {HeaderBytes} to {MaxBytes}.");
    }

    /// <summary>Reads a whole message and checks everything that can be checked without its descriptors.</summary>
    /// <exception cref="HandoffException">Something in it is not acceptable; the message has the value and the limit.</exception>
    internal static HandoffMessage Decode(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length < HeaderBytes || LengthOf(bytes) != bytes.Length)
        {
            throw new HandoffException($"The hand-over of {bytes.Length} bytes is cut off.");
        }

        uint blocks = BinaryPrimitives.ReadUInt32LittleEndian(bytes[16..]);
        uint descriptors = BinaryPrimitives.ReadUInt32LittleEndian(bytes[20..]);
        long stateLength = BinaryPrimitives.ReadInt64LittleEndian(bytes[32..]);
        Require(blocks is >= 1 and <= MaxBlocks, $"claims {blocks} blocks; it has 1 to {MaxBlocks}");
        Require(descriptors is >= FixedDescriptors and <= DescriptorSocket.MaxDescriptors,
            $"claims {descriptors} descriptors; it has {FixedDescriptors} to {DescriptorSocket.MaxDescriptors}");
        Require(stateLength >= HandoffState.HeaderBytes && stateLength % sizeof(ulong) == 0, $"claims a state of {stateLength} bytes");

        List<HandoffBlock> all = [];
        int at = HeaderBytes;
        for (uint i = 0; i < blocks; i++)
        {
            Require(bytes.Length - at >= BlockBytes, $"ends inside block {i}");
            ReadOnlySpan<byte> entry = bytes.Slice(at, BlockBytes);
            int nameLength = BinaryPrimitives.ReadUInt16LittleEndian(entry[62..]);
            Require(nameLength is >= 1 and <= RamBlockRegistry.MaxNameBytes, $"names block {i} with {nameLength} bytes; a name has 1 to {RamBlockRegistry.MaxNameBytes}");
            int whole = BlockBytes + nameLength + Padding(nameLength);
            Require(bytes.Length - at >= whole, $"ends inside the name of block {i}");
            all.Add(DecodeBlock(entry, Name(bytes.Slice(at + BlockBytes, nameLength), i), stateLength, (int)descriptors));
            at += whole;
        }

        Require(at == bytes.Length, $"has {bytes.Length - at} bytes after its last block");
        return new HandoffMessage((UffdFeatures)BinaryPrimitives.ReadUInt64LittleEndian(bytes[24..]), stateLength, all, (int)descriptors);
    }

    /// <summary>The page size and the range, as any peer may give them.</summary>
    internal static (AddressRange Range, PageSize PageSize) CheckedRange(string name, ulong start, ulong length, ulong pageBytes)
    {
        bool power = pageBytes is >= 4096 and <= 1UL << 30 && (pageBytes & (pageBytes - 1)) == 0;
        Require(power && (long)pageBytes >= PageSize.Host.Bytes, $"gives block '{name}' pages of {pageBytes} bytes; they are a power of two from {PageSize.Host} to 1 GiB");
        PageSize pageSize = new((long)pageBytes);

        // 2^47 bytes are all that a process on x64 has; arm64 has 2^48.
        Require(length > 0 && length <= 1UL << 48 && start <= (1UL << 57) - length, $"puts block '{name}' of {length} bytes at 0x{start:x}, outside of any address space");
        Require(pageSize.IsAligned((long)length) && pageSize.IsAligned((nuint)start), $"puts block '{name}' of {length} bytes at 0x{start:x}, which is not made of whole pages of {pageSize}");
        return (new AddressRange((nuint)start, (nuint)length), pageSize);
    }

    private static HandoffBlock DecodeBlock(ReadOnlySpan<byte> entry, string name, long stateLength, int descriptors)
    {
        (AddressRange range, PageSize pageSize) = CheckedRange(name, BinaryPrimitives.ReadUInt64LittleEndian(entry),
            BinaryPrimitives.ReadUInt64LittleEndian(entry[8..]), BinaryPrimitives.ReadUInt64LittleEndian(entry[16..]));
        long source = BinaryPrimitives.ReadInt64LittleEndian(entry[24..]);
        long bitmap = BinaryPrimitives.ReadInt64LittleEndian(entry[48..]);
        int memory = BinaryPrimitives.ReadInt32LittleEndian(entry[56..]);
        ushort flags = BinaryPrimitives.ReadUInt16LittleEndian(entry[60..]);
        HandoffBlock block = new(name, range, pageSize, source, (UffdModes)BinaryPrimitives.ReadUInt64LittleEndian(entry[32..]),
            (UffdOperations)BinaryPrimitives.ReadUInt64LittleEndian(entry[40..]), bitmap, memory, (flags & 1) != 0);
        Require(source >= 0 && source <= long.MaxValue - (long)range.Length, $"puts the content of block '{name}' at offset {source} of the source");
        long words = PageBitmap.BytesFor(block.PageCount);
        Require(bitmap >= HandoffState.HeaderBytes && bitmap % sizeof(ulong) == 0 && words <= stateLength && bitmap <= stateLength - words,
            $"puts the bitmap of block '{name}', {words} bytes, at offset {bitmap} of a state of {stateLength}");
        Require(memory == -1 || (memory >= FixedDescriptors && memory < descriptors), $"gives block '{name}' descriptor {memory} of {descriptors}");
        Require((block.Modes & UffdModes.Missing) != 0, $"registers block '{name}' as {block.Modes}, without missing faults");
        Require((block.Operations & UffdOperations.Copy) != 0, $"says that COPY does not work on block '{name}'");
        return block;
    }

    private static string Name(ReadOnlySpan<byte> bytes, uint index)
    {
        try
        {
            return new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(bytes.ToArray());
        }
        catch (ArgumentException e)
        {
            throw new HandoffException($"The hand-over names block {index} in something that is not UTF-8.", e);
        }
    }

    private static int Padding(int length) => -length & 7;

    private static void Write(MemoryStream stream, ReadOnlySpan<byte> bytes) => stream.Write(bytes.ToArray(), 0, bytes.Length);

    private static void Require(bool condition, string what)
    {
        if (!condition)
        {
            throw new HandoffException($"The hand-over {what}.");
        }
    }
}
