using System.Text;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Qemu.Tests;

namespace Postcopy.Breaking.Tests;

/// <summary>Everything here that reads what a peer has written, by the name that its seeds begin with.</summary>
internal static class Parsers
{
    /// <summary>What small streams are about.</summary>
    internal static readonly StreamRamBlock[] Blocks = [new(0, "a", 0x3000, 4096), new(1, "b/c@d", 0x2000, 4096)];

    /// <summary>Each returns true when all was accepted, false or one of its exceptions when not.</summary>
    internal static IReadOnlyDictionary<string, Func<byte[], bool>> All { get; } = new Dictionary<string, Func<byte[], bool>>
    {
        ["stream"] = bytes => ReadStream(bytes, new MigrationStreamState()),
        ["running"] = bytes => ReadStream(bytes, RunningState()),
        ["returnpath"] = ReadReturnPath,
        ["package"] = ReadPackage,
        ["description"] = bytes => VmDescription.Parse(bytes).Devices.Count > 0,
        ["trailer"] = bytes => VmDescription.ParseTrailing(bytes).Devices.Count > 0,
        ["xbzrle"] = bytes => XbzrleDelta.TryApply(bytes, new byte[4096]),
        ["zlib"] = bytes => new ZlibInflater().TryInflate(bytes, new byte[4096]),
        ["handoff"] = bytes => HandoffMessage.LengthOf(bytes) <= HandoffMessage.MaxBytes && HandoffMessage.Decode(bytes).Blocks.Count > 0,
        ["answer"] = bytes => HandoffAnswer.LengthOf(bytes) > 0 && HandoffAnswer.Decode(bytes) is not null,
        ["firecracker"] = bytes => FirecrackerMessage.IsWhole(bytes) && FirecrackerMessage.Decode(bytes).Count > 0,
        ["address"] = bytes => MigrationAddress.TryParse(Encoding.UTF8.GetString(bytes), out _, out _),
    };

    internal static bool IsRefusal(Exception e) => e is MigrationStreamException or MigrationConnectionException or HandoffException;

    private static MigrationStreamState RunningState()
    {
        MigrationStreamState state = new();
        using QemuStreamReader reader = new(
            MigrationChannel.FromStream(new MemoryStream(Seeds.BeforeTheSwitch())), state, new QemuStreamOptions { ReceiveBufferSize = QemuStreamOptions.MinReceiveBufferSize });
        while (reader.ReadNext() != StreamRecordKind.Package)
        {
        }

        return state;
    }

    private static bool ReadStream(byte[] bytes, MigrationStreamState state)
    {
        using QemuStreamReader reader = new(
            MigrationChannel.FromStream(new MemoryStream(bytes)), state, new QemuStreamOptions { ReceiveBufferSize = QemuStreamOptions.MinReceiveBufferSize });
        while (reader.ReadNext() != StreamRecordKind.EndOfStream)
        {
            _ = reader.Package?.Split();
        }

        return true;
    }

    private static bool ReadReturnPath(byte[] bytes)
    {
        using ReturnPathReader reader = new(MigrationChannel.FromStream(new MemoryStream(bytes)), Blocks) { AcceptsResend = true };
        while (reader.ReadNext() != ReturnPathMessageType.Shut)
        {
        }

        return true;
    }

    private static bool ReadPackage(byte[] bytes) => DevicePackage.Parse(bytes).Split().Count > 0;
}
