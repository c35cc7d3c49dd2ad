using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Benchmarks.Interop;

/// <summary>The functions of native/lab.h. Ordinary calls: they may wait for pages.</summary>
internal static unsafe partial class NativeLab
{
    internal const string Library = "postcopy-lab";
    internal const int LAB_SLEEP = 0;
    internal const int LAB_SPIN = 1;

    [LibraryImport(Library)]
    internal static partial int lab_region_open(ulong bytes, out nint region);

    [LibraryImport(Library)]
    internal static partial void lab_region_close(nint region);

    [LibraryImport(Library)]
    internal static partial nuint lab_region_address(nint region);

    [LibraryImport(Library)]
    internal static partial int lab_region_discard(nint region);

    [LibraryImport(Library)]
    internal static partial int lab_copy_loop(nint region, nuint source, ulong sourceMask, long pages);

    [LibraryImport(Library)]
    internal static partial int lab_zero_loop(nint region, long pages);

    [LibraryImport(Library)]
    internal static partial int lab_stream_place(int file);

    [LibraryImport(Library)]
    internal static partial int lab_handler_start(nint region, nuint page, int waiting, out nint handler);

    [LibraryImport(Library)]
    internal static partial int lab_handler_thread(nint handler);

    [LibraryImport(Library)]
    internal static partial void lab_handler_request_through(nint handler, int socket, ulong* samples, long capacity);

    [LibraryImport(Library)]
    internal static partial long lab_handler_samples(nint handler);

    [LibraryImport(Library)]
    internal static partial int lab_handler_stop(nint handler);

    [LibraryImport(Library)]
    internal static partial void lab_touch(nuint address, uint* pages, long count, ulong gap, ulong* samples);

    [LibraryImport(Library)]
    internal static partial ulong lab_ticks();

    [LibraryImport(Library)]
    internal static partial ulong lab_walk(nuint address, ulong bytes, uint* pages, long count);

    [LibraryImport(Library)]
    internal static partial int lab_load_start(int threads, out nint load);

    [LibraryImport(Library)]
    internal static partial void lab_load_stop(nint load);

    [LibraryImport(Library)]
    internal static partial int lab_drain_start(int socket, out nint drain);

    [LibraryImport(Library)]
    internal static partial void lab_drain_stop(nint drain);
}
