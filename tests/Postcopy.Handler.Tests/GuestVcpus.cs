using System.Runtime.InteropServices;
using Postcopy.Uffd;

namespace Postcopy.Handler.Tests;

/// <summary>
/// Threads that touch a guest's memory in native calls, check what they read against the image, and write into the pages
/// that are theirs: what was written must never be overwritten by whoever places pages.
/// </summary>
internal sealed class GuestVcpus
{
    private readonly GuestMemory _memory;
    private readonly int _pages;
    private readonly Thread[] _threads;
    private readonly uint[] _written;
    private bool _stop;
    private long _window;
    private long _touches;
    private string? _wrong;

    internal GuestVcpus(GuestMemory memory, int count)
    {
        _memory = memory;
        _pages = (int)(memory.Length / TestImage.PageBytes);
        _written = new uint[_pages];
        _window = _pages;
        _threads = [.. Enumerable.Range(0, count).Select(i => new Thread(() => Run(i)) { IsBackground = true, Name = $"vcpu {i}" })];
    }

    /// <summary>How much of the memory is touched so far: the first so many pages.</summary>
    internal long Window
    {
        get => Volatile.Read(ref _window);
        set => Volatile.Write(ref _window, value);
    }

    internal long Touches => Interlocked.Read(ref _touches);

    internal void Start()
    {
        foreach (Thread thread in _threads)
        {
            thread.Start();
        }
    }

    /// <summary>Ends the threads; fails the test when one hangs or read something wrong.</summary>
    internal void Stop(string context)
    {
        Volatile.Write(ref _stop, true);
        foreach (Thread thread in _threads)
        {
            Assert.True(thread.Join(TimeSpan.FromSeconds(30)), $"{thread.Name} hangs. {context}");
        }

        Assert.True(_wrong is null, _wrong);
    }

    /// <summary>All pages, once: the image's content and the last word that was written.</summary>
    internal void CheckEverything()
    {
        byte[] page = new byte[TestImage.PageBytes];
        for (int i = 0; i < _pages; i++)
        {
            Check(i, page);
        }

        Assert.True(_wrong is null, _wrong);
    }

    private void Run(int number)
    {
        Random random = new(number);
        byte[] page = new byte[TestImage.PageBytes];
        while (!Volatile.Read(ref _stop) && _wrong is null)
        {
            // A page of one's own, so that nobody else changes it between the read and the check.
            int own = (int)(random.NextInt64(Window) / _threads.Length * _threads.Length) + number;
            if (own >= _pages)
            {
                continue;
            }

            Check(own, page);
            if (random.Next(4) == 0)
            {
                uint value = _written[own] + 1;
                _memory.Write((long)own * TestImage.PageBytes, MemoryMarshal.AsBytes(new ReadOnlySpan<uint>(ref value)));
                _written[own] = value;
            }

            _ = Interlocked.Increment(ref _touches);
        }
    }

    private void Check(int page, byte[] into)
    {
        _memory.Read((long)page * TestImage.PageBytes, into);
        Span<byte> expected = stackalloc byte[TestImage.PageBytes];
        TestImage.Fill(page, expected);
        if (_written[page] != 0)
        {
            MemoryMarshal.Write(expected, _written[page]);
        }

        int at = expected.CommonPrefixLength(into);
        if (at != into.Length)
        {
            _wrong ??= $"Page {page}, written {_written[page]} times, is wrong from byte {at}: {into[at]:x2} instead of {expected[at]:x2}.";
        }
    }
}
