using System.Globalization;
using System.Runtime.InteropServices;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Simulation.Schedules;

/// <summary>The real kernel, with real threads. It belongs in a child process: it forks, and what goes wrong may hang.</summary>
internal sealed unsafe class RealStage : IStage
{
    private readonly Dictionary<string, FaultingThread> _threads = [];
    private readonly Dictionary<string, Func<long, string>> _describe = [];
    private readonly RawMapping? _memory;
    private readonly MemoryHolder? _target;
    private readonly RawMapping? _alias;
    private readonly UffdHandle _uffd;
    private readonly nuint _start;
    private readonly int _pages;
    private readonly bool _huge;
    private readonly nuint _source;
    private RawMapping? _hog;

    internal RealStage(Schedule schedule)
    {
        _huge = schedule.Kind == "huge";
        _pages = schedule.Pages;
        PageBytes = _huge ? 2 << 20 : PageSize.Host.Bytes;
        _source = (nuint)NativeMemory.AlignedAlloc((nuint)(_pages * PageBytes), (nuint)PageSize.Host.Bytes);
        NativeMemory.Clear((void*)_source, (nuint)(_pages * PageBytes));
        if (schedule.Kind == "foreign")
        {
            _target = MemoryHolder.Start(_pages);
            (_uffd, _start) = (_target.Uffd, _target.Range.Start);
            return;
        }

        _memory = schedule.Kind switch
        {
            "huge" => RawMapping.Hugetlb(_pages, shared: false, reserve: false),
            "memfd" => RawMapping.Memfd(_pages),
            _ => RawMapping.Anonymous(_pages),
        };
        _start = _memory.Address;
        _uffd = UffdHandle.Open(Requires.AnyKind);
        _ = _uffd.Negotiate(schedule.Features | UffdFeatures.ThreadId | (schedule.Kind == "memfd" ? UffdFeatures.MinorShmem : 0));
        _ = _uffd.Register(_memory.Range, UffdModes.Missing | (schedule.Kind == "memfd" ? UffdModes.Minor : 0));
        _alias = schedule.Kind == "memfd" ? _memory.Alias() : null;
    }

    public long PageBytes { get; }

    public string Reads(string thread, int page)
    {
        if (_target is not null)
        {
            _target.Touch(page * PageBytes);
            Deadline.Until(() => Waiters() == 1, "the target's fault");
            return IStage.Waits;
        }

        return Start(thread, () => ReadLong(Address(page)), seen => seen.ToString(CultureInfo.InvariantCulture));
    }

    public string SystemCallReads(string thread, int page)
    {
        // The file is made before the thread starts: it blocks in nothing but the write.
        RawMapping file = RawMapping.Memfd(1);
        return Start(thread, () => Libc.write(file.File!, (void*)Address(page), 1) == 1 ? 0 : Marshal.GetLastPInvokeError(), errno => errno switch
        {
            0 => "no error",
            Errno.EFAULT => "EFAULT",
            _ => Errno.Describe((int)errno),
        });
    }

    public string Removes(string thread, (int First, int Count) range) =>
        Start(thread, () => Libc.madvise(Address(range.First), (nuint)(range.Count * PageBytes), _alias is null ? Libc.MADV_DONTNEED : Libc.MADV_REMOVE),
            result => result == 0 ? IStage.RemoveDone : $"madvise returned {result}");

    public string Forks(string thread) => Start(thread, () => TestLibc.ForkInto("_exit"), pid =>
    {
        TestLibc.KillAndReap((int)pid);
        return IStage.ForkDone;
    });

    public string State(string thread)
    {
        if (_target is not null)
        {
            return Waiters() > 0 ? IStage.Waits : _target.Answer().ToString(CultureInfo.InvariantCulture);
        }

        FaultingThread t = _threads[thread];
        return t.IsDone ? _describe[thread](t.Result) : IStage.Waits;
    }

    public void Signal(string thread)
    {
        Assert.Equal(0, TestLibc.SignalThread((int)_threads[thread].ThreadId, TestLibc.SIGWINCH));
        Settle();
    }

    public string Read()
    {
        List<UffdMessage> all = [];
        UffdMessage[] into = new UffdMessage[16];
        for (int n; (n = _uffd.Read(into, out UffdOutcome outcome)) > 0;)
        {
            Assert.Equal(UffdOutcome.Done, outcome);
            all.AddRange(into.Take(n));
        }

        foreach (UffdMessage fork in all.Where(m => m.Event == UffdEvent.Fork))
        {
            _ = Libc.close(fork.ForkDescriptor);
        }

        Settle();
        return IStage.Describe(all, id => _threads.FirstOrDefault(t => t.Value.ThreadId == id).Key ?? "t", a => (long)(a - _start) / PageBytes);
    }

    public UffdResult Operate(string operation, (int First, int Count) range, UffdPlaceFlags flags)
    {
        nuint start = Address(range.First), length = (nuint)(range.Count * PageBytes);
        for (int i = 0; i < range.Count; i++)
        {
            *(long*)(_source + (nuint)(i * PageBytes)) = IStage.ContentOf(range.First + i);
        }

        UffdResult result = operation switch
        {
            "copy" => _uffd.Copy(start, _source, length, flags),
            "zero" => _uffd.Zeropage(start, length, flags),
            "continue" => _uffd.Continue(start, length, flags),
            "poison" => _uffd.Poison(start, length, flags),
            _ => _uffd.Wake(start, length),
        };
        Settle();
        return result;
    }

    public void FillCache(int page) => *(long*)_alias!.Page(page) = IStage.ContentOf(page);

    public void SetPool(int pages)
    {
        _hog?.Dispose();
        _hog = null;
        int take = (int)HugePages.Available - pages;
        Assert.True(take >= 0, $"The pool has {HugePages.Available} pages, and the schedule wants {pages}.");
        if (take > 0)
        {
            _hog = RawMapping.Hugetlb(take, shared: false).Fill(1);
        }
    }

    public void Exit() => _target!.Kill();

    public void Unregister()
    {
        _uffd.Unregister(_memory!.Range);
        Settle();
    }

    public void Dispose()
    {
        // Closing the descriptor wakes all that still wait.
        _uffd.Dispose();
        foreach (FaultingThread t in _threads.Values)
        {
            Assert.True(t.Wait(Deadline.Default), "A thread was still blocked after the descriptor was closed.");
        }

        _hog?.Dispose();
        _alias?.Dispose();
        _memory?.Dispose();
        _target?.Dispose();
        NativeMemory.AlignedFree((void*)_source);
    }

    private static long ReadLong(nuint address)
    {
        long seen;
        _ = Libc.memcpy((nuint)(&seen), address, sizeof(long));
        return seen;
    }

    private nuint Address(int page) => _start + (nuint)(page * PageBytes);

    private string Start(string thread, Func<long> nativeCall, Func<long, string> describe)
    {
        _describe[thread] = describe;
        _threads[thread] = FaultingThread.Start(nativeCall);
        Settle();
        return State(thread);
    }

    private int Waiters() => int.Parse(File.ReadLines($"/proc/self/fdinfo/{_uffd.Descriptor}").First(l => l.StartsWith("total:", StringComparison.Ordinal))["total:".Length..], CultureInfo.InvariantCulture);

    /// <summary>Until each thread is done or asleep in the kernel, twice in a row.</summary>
    private void Settle()
    {
        int quiet = 0;
        Deadline.Until(() =>
        {
            quiet = _threads.Values.All(t => t.IsDone || IsAsleep(t.ThreadId)) ? quiet + 1 : 0;
            Libc.Pause(1_000_000);
            return quiet >= 3;
        }, "all threads to come to rest");
    }

    /// <summary>
    /// proc(5): "running", or the system call a thread sleeps in, or -1 when it sleeps in a page fault. The calls of
    /// these stages are write 1, madvise 28, clone 56 here, and on arm64 64, 233, 220; everything else passes.
    /// </summary>
    private static bool IsAsleep(uint thread)
    {
        try
        {
            return File.ReadAllText($"/proc/self/task/{thread}/syscall").Split(' ')[0] is "-1" or "1" or "28" or "56" or "64" or "233" or "220";
        }
        catch (IOException)
        {
            // It has just ended.
            return false;
        }
    }
}
