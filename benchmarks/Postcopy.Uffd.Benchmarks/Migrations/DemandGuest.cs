using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Postcopy.Uffd.Benchmarks.Interop;

namespace Postcopy.Uffd.Benchmarks.Migrations;

/// <summary>native/demand-guest.S: a guest that reads pages in a given order and knows how long that took.</summary>
internal sealed class DemandGuest : IDisposable
{
    private const long Ready = 0x6000;
    private const long Go = 0x6004;
    private const long Sum = 0x6008;
    private const long Done = 0x6010;
    private const long Count = 0x6014;
    private const long List = 0x10000;
    private const uint Magic = 0x600df00d;
    private const int DiskBytes = 1 << 20;

    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);

    private readonly string _disk = Path.GetTempFileName();
    private readonly double _ticksPerNanosecond = Calibrate();

    internal DemandGuest()
    {
        byte[] sector = File.ReadAllBytes(Compiler.BootSector("demand-guest.S"));
        Array.Resize(ref sector, DiskBytes);
        File.WriteAllBytes(_disk, sector);
    }

    /// <summary>A source whose guest stands still just before it begins to read.</summary>
    internal QemuMachine StartSource(GuestContent content, TouchFile touches)
    {
        content.WriteWord(Ready, 0);
        QemuMachine source = QemuMachine.Source(content, _disk);
        try
        {
            if (!SpinWait.SpinUntil(() => Pause() && content.ReadWord(Ready) == Magic, s_patience))
            {
                throw new LabException("The guest does not come up.");
            }

            _ = source.Execute("stop");
            content.Write(List, MemoryMarshal.AsBytes(touches.Order.AsSpan()));
            content.WriteWord(Count, (uint)touches.Count);
            content.WriteWord(Go, Magic);
            return source;
        }
        catch
        {
            source.Dispose();
            throw;
        }
    }

    internal QemuDestination StartDestination(long bytes, bool preempt) => new(bytes, preempt, _disk);

    /// <summary>Lets the guest go on, as soon as QEMU has its devices and before it has its memory.</summary>
    internal static void LetRun(QemuDestination destination)
    {
        if (!SpinWait.SpinUntil(() => destination.Machine.Execute("query-status")!["status"]!.GetValue<string>() == "paused", s_patience))
        {
            throw new LabException("QEMU's destination does not get as far as running its guest.");
        }

        _ = destination.Machine.Execute("cont");
    }

    /// <summary>What it felt, in nanoseconds.</summary>
    internal double SumOfStalls(QemuDestination destination)
    {
        byte[] state = [];
        string file = Path.GetTempFileName();
        try
        {
            bool done = SpinWait.SpinUntil(() => Pause() && BitConverter.ToUInt32(state = Read(destination, file), (int)(Done - Ready)) == Magic, s_patience);
            return done ? BitConverter.ToUInt64(state, (int)(Sum - Ready)) / _ticksPerNanosecond : throw new LabException("The guest does not come to its end.");
        }
        finally
        {
            File.Delete(file);
        }
    }

    public void Dispose() => File.Delete(_disk);

    private static byte[] Read(QemuDestination destination, string file)
    {
        _ = destination.Machine.Execute("pmemsave", new JsonObject { ["val"] = Ready, ["size"] = Count + sizeof(uint) - Ready, ["filename"] = file });
        return File.ReadAllBytes(file);
    }

    private static bool Pause()
    {
        Thread.Sleep(10);
        return true;
    }

    /// <summary>The guest's counter runs as the host's does.</summary>
    private static double Calibrate()
    {
        long start = System.Diagnostics.Stopwatch.GetTimestamp();
        ulong ticks = NativeLab.lab_ticks();
        Thread.Sleep(100);
        return (NativeLab.lab_ticks() - ticks) / System.Diagnostics.Stopwatch.GetElapsedTime(start).TotalNanoseconds;
    }
}
