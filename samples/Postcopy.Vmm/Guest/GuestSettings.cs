using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Postcopy.Uffd;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Guest;

/// <summary>What the guest does; patched into its boot sector (guest.S, offset 4).</summary>
internal sealed record GuestSettings
{
    internal const int LoadAddress = 0x7c00;

    internal const int PageBytes = 4096;

    private const int SectorBytes = 512;
    private const uint Magic = 0x32444e32;
    private const int SettingsOffset = 4;
    private const int SettingsLength = 20;

    internal bool LongMode { get; init; } = true;

    /// <summary>The first vCPU starts the others through the local APIC, as on a PC; our VMM starts them all itself.</summary>
    internal bool StartsOthers { get; init; }

    /// <summary>The guest fills its pages itself in the first pass; else <see cref="Load"/> does, which is faster than emulated code.</summary>
    internal bool Fills { get; init; }

    /// <summary>Where the first vCPU's part begins.</summary>
    internal uint Base { get; init; } = 1 << 20;

    /// <summary>Pages that each vCPU walks.</summary>
    internal uint PagesPerVcpu { get; init; } = 256;

    /// <summary>A gap between two pages that is longer is recorded, in ticks of the time-stamp counter.</summary>
    internal uint GapThreshold { get; init; } = 1_000_000;

    /// <summary>Ticks between heartbeats.</summary>
    internal uint BeatInterval { get; init; } = 100_000_000;

    /// <summary>True when the guest is ours: its second sector begins with a number that nothing else has.</summary>
    internal static bool AreIn(GuestMemory memory)
    {
        byte[] magic = new byte[sizeof(uint)];
        memory.Read(LoadAddress + SectorBytes, magic);
        return BinaryPrimitives.ReadUInt32LittleEndian(magic) == Magic;
    }

    /// <summary>What a guest that is there was told: its boot sector stays in its memory, also one that QEMU's BIOS loaded.</summary>
    internal static GuestSettings Read(GuestMemory memory)
    {
        byte[] settings = new byte[SettingsLength];
        memory.Read(LoadAddress + SettingsOffset, settings);
        return new GuestSettings
        {
            LongMode = settings[0] != 0,
            StartsOthers = settings[1] != 0,
            Fills = settings[2] != 0,
            Base = BinaryPrimitives.ReadUInt32LittleEndian(settings.AsSpan(4)),
            PagesPerVcpu = BinaryPrimitives.ReadUInt32LittleEndian(settings.AsSpan(8)),
            GapThreshold = BinaryPrimitives.ReadUInt32LittleEndian(settings.AsSpan(12)),
            BeatInterval = BinaryPrimitives.ReadUInt32LittleEndian(settings.AsSpan(16)),
        };
    }

    /// <summary>Puts the guest into a machine that has not run: its code, and the content of its pages.</summary>
    internal void Load(VirtualMachine machine)
    {
        long walked = (long)PagesPerVcpu * machine.Vcpus.Count;
        long end = Base + (walked * PageBytes);
        if (end > machine.Ram.Length)
        {
            throw new VmmException($"{machine.Vcpus.Count} vCPUs that walk {PagesPerVcpu} pages each need {end >> 20} MiB of memory; the machine has {machine.Ram.Length >> 20} MiB.");
        }

        machine.Ram.Write(LoadAddress, Image());
        uint[] page = new uint[PageBytes / sizeof(uint)];
        for (long at = Base; !Fills && at < end; at += PageBytes)
        {
            Array.Fill(page, (uint)at);
            page[0] = page[1] = page[2] = 0;
            machine.Ram.Write(at, MemoryMarshal.AsBytes<uint>(page));
        }

        foreach (Vcpu vcpu in machine.Vcpus)
        {
            vcpu.SetBootState(LoadAddress);
        }
    }

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
        settings[2] = Fills ? (byte)1 : (byte)0;
        BinaryPrimitives.WriteUInt32LittleEndian(settings[4..], Base);
        BinaryPrimitives.WriteUInt32LittleEndian(settings[8..], PagesPerVcpu);
        BinaryPrimitives.WriteUInt32LittleEndian(settings[12..], GapThreshold);
        BinaryPrimitives.WriteUInt32LittleEndian(settings[16..], BeatInterval);
        return image;
    }
}
