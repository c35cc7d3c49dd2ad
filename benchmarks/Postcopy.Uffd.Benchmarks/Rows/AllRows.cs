using Postcopy.Uffd.Benchmarks.Compare;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>Every row of the comparison, in the table's order.</summary>
internal static class AllRows
{
    internal static IReadOnlyList<Row> List { get; } =
    [
        new("fault-sleep", FaultRows.Sleep),
        new("fault-adaptive", FaultRows.Adaptive),
        new("fault-contended", LoadRows.Contended),
        new("request-path", RequestPathRow.Measure),
        new("fault-spin", FaultRows.Spin),
        new("place-page", PlacePageRow.Measure),
        new("place-stream", PlaceStreamRow.Stream),
        new("place-zero", PlaceStreamRow.Zero),
        new("tracker", TrackerRow.Measure),
        new("alloc", AllocationRow.Measure),
        new("gc-pressure", LoadRows.GarbageCollection),
        new("qemu-wall", QemuRows.Wall),
        new("qemu-cpu", QemuRows.Cpu),
        new("demand", DemandRow.Measure),
        new("demand-qemu", DemandQemuRow.Measure),
        new("thp", ThpRow.Measure),
        new("guest-speed", GuestSpeedRow.Measure),
    ];

    /// <summary>Where a result belongs: by its row's place, variants behind it.</summary>
    internal static int IndexOf(string result)
    {
        string row = result.Split('.')[0];
        for (int i = 0; i < List.Count; i++)
        {
            if (List[i].Name == row)
            {
                return i;
            }
        }

        return List.Count;
    }
}
