using System.Buffers.Binary;

namespace Postcopy.Vmm.Guest;

/// <summary>What the guest does; patched into its boot sector (guest.S, offset 4).</summary>
internal sealed record GuestSettings
{
    internal const int LoadAddress = 0x7c00;

    private const int SettingsOffset = 4;

    internal bool LongMode { get; init; } = true;

    /// <summary>The first vCPU starts the others through the local APIC, as on a PC; our VMM starts them all itself.</summary>
    internal bool StartsOthers { get; init; }

    /// <summary>Where the first vCPU's part begins.</summary>
    internal uint Base { get; init; } = 1 << 20;

    /// <summary>Pages that each vCPU walks.</summary>
    internal uint PagesPerVcpu { get; init; } = 256;

    /// <summary>A gap between two pages that is longer is recorded, in ticks of the time-stamp counter.</summary>
    internal uint GapThreshold { get; init; } = 1_000_000;

    /// <summary>Ticks between heartbeats.</summary>
    internal uint BeatInterval { get; init; } = 100_000_000;

    /// <summary>The guest's bytes, boot sector first.</summary>
    internal byte[] Image()
    {
        using Stream resource = typeof(GuestSettings).Assembly.GetManifestResourceStream("guest.bin")
            ?? throw new InvalidOperationException("guest.bin is not embedded.");
        byte[] image = new byte[resource.Length];
        resource.ReadExactly(image);
        Span<byte> settings = image.AsSpan(SettingsOffset);
        settings[0] = LongMode ? (byte)1 : (byte)0;
        settings[1] = StartsOthers ? (byte)1 : (byte)0;
        BinaryPrimitives.WriteUInt32LittleEndian(settings[4..], Base);
        BinaryPrimitives.WriteUInt32LittleEndian(settings[8..], PagesPerVcpu);
        BinaryPrimitives.WriteUInt32LittleEndian(settings[12..], GapThreshold);
        BinaryPrimitives.WriteUInt32LittleEndian(settings[16..], BeatInterval);
        return image;
    }
}
