using System.Globalization;
using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Tests.Simulation.Schedules;

/// <summary>The simulated kernel, with nothing left to chance.</summary>
internal sealed unsafe class FakeStage : IStage
{
    private static readonly nuint s_address = unchecked((nuint)0x10_0000_0000);

    private readonly Dictionary<string, Actor> _actors = [];
    private readonly FakeMemory _memory;
    private readonly FakeKernel _kernel;
    private readonly bool _removeEvents;
    private readonly bool _forkEvents;
    private readonly long* _source;

    internal FakeStage(Schedule schedule)
    {
        PageSize size = schedule.Kind == "huge" ? PageSize.TwoMiB : PageSize.Host;
        bool shared = schedule.Kind == "memfd";
        PageBytes = size.Bytes;
        _removeEvents = (schedule.Features & UffdFeatures.EventRemove) != 0;
        _forkEvents = (schedule.Features & UffdFeatures.EventFork) != 0;
        _memory = new FakeMemory(schedule.Pages, size, shared);
        _kernel = new FakeKernel(_memory, s_address, UffdModes.Missing | (shared ? UffdModes.Minor : 0), new Random(1)) { PartialPercent = 0 };
        _source = (long*)NativeMemory.AllocZeroed((nuint)schedule.Pages, (nuint)PageBytes);
    }

    private sealed class Actor(FakeVcpu vcpu)
    {
        internal FakeVcpu Vcpu { get; } = vcpu;

        internal bool InSystemCall { get; set; }

        internal FakeKernel.Removal? Removal { get; set; }

        internal string WhenRemoved { get; set; } = IStage.RemoveDone;

        internal string Seen { get; set; } = IStage.Waits;
    }

    public long PageBytes { get; }

    public string Reads(string thread, int page) => Touch(thread, page, inSystemCall: false);

    public string SystemCallReads(string thread, int page) => Touch(thread, page, inSystemCall: true);

    public string Removes(string thread, (int First, int Count) range)
    {
        if (_removeEvents)
        {
            _kernel.StartRemoval(range.First, range.Count);
            return Wait(thread, IStage.RemoveDone);
        }

        for (int page = range.First; page < range.First + range.Count; page++)
        {
            _memory.Zap(page);
        }

        return IStage.RemoveDone;
    }

    public string Forks(string thread)
    {
        if (!_forkEvents)
        {
            return IStage.ForkDone;
        }

        _kernel.StartFork();
        return Wait(thread, IStage.ForkDone);
    }

    public string State(string thread) => _actors[thread].Seen;

    public void Signal(string thread) => _kernel.Signal(_actors[thread].Vcpu);

    public string Read()
    {
        UffdMessage[] into = new UffdMessage[64];
        int count = _kernel.Read(into, out _);
        string text = IStage.Describe(into.Take(count), id => _actors.Single(a => a.Value.Vcpu.ThreadId == id).Key, a => (long)(a - s_address) / PageBytes);
        Settle();
        return text;
    }

    public UffdResult Operate(string operation, (int First, int Count) range, UffdPlaceFlags flags)
    {
        nuint start = s_address + (nuint)(range.First * PageBytes), length = (nuint)(range.Count * PageBytes);
        for (int i = 0; i < range.Count; i++)
        {
            _source[i * PageBytes / sizeof(long)] = IStage.ContentOf(range.First + i);
        }

        UffdResult result = operation switch
        {
            "copy" => _kernel.Copy(start, (nuint)_source, length, flags),
            "zero" => _kernel.Zeropage(start, length, flags),
            "continue" => _kernel.Continue(start, length, flags),
            "poison" => _kernel.Poison(start, length, flags),
            _ => _kernel.Wake(start, length),
        };
        Settle();
        return result;
    }

    public void FillCache(int page) => _memory.Frames[page] = IStage.ContentOf(page);

    public void SetPool(int pages) => _memory.Pool = pages;

    public void Exit() => _kernel.Exit();

    public void Unregister()
    {
        _kernel.Unregister();
        Settle();
    }

    public void Dispose() => NativeMemory.Free(_source);

    private Actor ActorOf(string thread)
    {
        if (!_actors.TryGetValue(thread, out Actor? actor))
        {
            _actors[thread] = actor = new Actor(_kernel.AddVcpu((uint)_actors.Count + 1));
        }

        actor.Seen = IStage.Waits;
        return actor;
    }

    private string Touch(string thread, int page, bool inSystemCall)
    {
        Actor actor = ActorOf(thread);
        actor.InSystemCall = inSystemCall;
        actor.Vcpu.Touch(page);
        Settle();
        return actor.Seen;
    }

    private string Wait(string thread, string whenDone)
    {
        Actor actor = ActorOf(thread);
        actor.Removal = _kernel.Removals[^1];
        actor.WhenRemoved = whenDone;
        Settle();
        return actor.Seen;
    }

    /// <summary>Everybody runs until he waits or is done, as threads of a real host do between two commands.</summary>
    private void Settle()
    {
        _kernel.RunMadvise();
        _kernel.RunMadvise();
        foreach (Actor actor in _actors.Values)
        {
            if (actor.Removal is { } removal && !_kernel.Removals.Contains(removal))
            {
                actor.Removal = null;
                actor.Seen = actor.WhenRemoved;
            }

            if (actor.Vcpu.IsRunnable && !_kernel.TargetGone && actor.Vcpu.Run() is { } seen)
            {
                actor.Seen = seen == FakeKernel.Poisoned ? "EFAULT" : actor.InSystemCall ? "no error" : seen.ToString(CultureInfo.InvariantCulture);
            }
        }
    }
}
