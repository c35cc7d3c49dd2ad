namespace Postcopy.Uffd.Qemu;

/// <summary>The most that a stream may claim. Whatever exceeds a limit is refused before memory is set aside for it.</summary>
public sealed record ProtocolLimits
{
    /// <summary>The longest name of a block, section or machine type that a one-byte length can express.</summary>
    public const int MaxNameLength = 255;

    /// <summary>The longest payload of a return-path message that a QEMU source accepts.</summary>
    public const int MaxReturnPathPayload = 512;

    /// <summary>The longest payload of a command: its length has two bytes.</summary>
    public const int MaxCommandPayload = ushort.MaxValue;

    /// <summary>The smallest target page, in bits.</summary>
    public const int MinTargetPageBits = 12;

    /// <summary>The largest target page, in bits.</summary>
    public const int MaxTargetPageBits = 16;

    /// <summary>The defaults, generous for real guests.</summary>
    public static ProtocolLimits Default { get; } = new();

    /// <summary>The longest machine type of the configuration record.</summary>
    public int MaxMachineTypeLength { get; init; } = MaxNameLength;

    /// <summary>The most capabilities that the configuration record may list.</summary>
    public int MaxCapabilities { get; init; } = 64;

    /// <summary>The most RAM blocks.</summary>
    public int MaxBlocks { get; init; } = 4096;

    /// <summary>The longest RAM block in bytes.</summary>
    public long MaxBlockLength { get; init; } = 64L << 40;

    /// <summary>The sum of all RAM blocks in bytes.</summary>
    public long MaxTotalRam { get; init; } = 64L << 40;

    /// <summary>The largest page size of a block.</summary>
    public long MaxBlockPageSize { get; init; } = 16L << 30;

    /// <summary>The longest device package in bytes; it is kept whole in managed memory.</summary>
    public int MaxPackageLength { get; init; } = 128 << 20;

    /// <summary>The longest VM description text in bytes.</summary>
    public int MaxVmDescriptionLength { get; init; } = 16 << 20;

    /// <summary>The most device sections in a package.</summary>
    public int MaxPackageSections { get; init; } = 65536;

    /// <summary>The longest compressed form of a page; zlib adds little to a page that does not compress.</summary>
    public int MaxCompressedPageLength(int targetPageSize) => targetPageSize + (targetPageSize >> 3) + 128;
}
