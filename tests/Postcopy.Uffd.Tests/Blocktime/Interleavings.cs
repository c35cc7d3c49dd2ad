namespace Postcopy.Uffd.Tests.Blocktime;

/// <summary>
/// Runs small concurrent programs through the orders of their steps: a step is the code between two yields of the real code.
/// One thread runs at a time, so the orders are those of sequential consistency; store buffers are for the models
/// (tests/models) and the litmus test.
/// </summary>
internal static class Interleavings
{
    /// <summary>Builds a fresh state for each order, runs its programs, then checks it. Returns the number of orders.</summary>
    internal static int Enumerate<T>(Func<T> build, Action<T> check, int limit, params Action<T>[] programs) =>
        Enumerate(build, check, limit, int.MaxValue, onPoint: null, programs);

    /// <summary>
    /// The same with at most so many preemptions: switches away from a program that could have gone on. Most defects need
    /// one or two, and the number of orders grows with each.
    /// </summary>
    /// <param name="build">A fresh state.</param>
    /// <param name="check">Throws what is wrong with it.</param>
    /// <param name="limit">Orders at most.</param>
    /// <param name="preemptions">Preemptions at most.</param>
    /// <param name="onPoint">Called at each yield, before the switch.</param>
    /// <param name="programs">What runs at once.</param>
    internal static int Enumerate<T>(
        Func<T> build, Action<T> check, int limit, int preemptions, Action<T, string>? onPoint, params Action<T>[] programs)
    {
        List<(int Choice, int Of)> path = [];
        using Scheduler scheduler = new(programs.Length, preemptions);
        int orders = 0;
        do
        {
            T state = build();
            try
            {
                scheduler.Play(path, [.. programs.Select<Action<T>, Action>(p => () => p(state))], place => onPoint?.Invoke(state, place));
                check(state);
            }
            catch (Exception e)
            {
                throw new InvalidOperationException($"order {orders + 1}: {string.Join("", path.Select(p => p.Choice))}: {e.Message}", e);
            }

            orders++;

            // Depth first: the last choice that has an alternative takes it.
            while (path.Count > 0 && path[^1].Choice + 1 == path[^1].Of)
            {
                path.RemoveAt(path.Count - 1);
            }

            if (path.Count > 0)
            {
                path[^1] = (path[^1].Choice + 1, path[^1].Of);
            }
        }
        while (path.Count > 0 && orders < limit);
        return orders;
    }

    private enum Status
    {
        Runnable,
        Waiting,
        Ended,
    }

    /// <summary>The programs' threads. Whoever runs decides who goes on, so that a step without a switch costs no switch.</summary>
    private sealed class Scheduler : IDisposable
    {
        private const int MostSteps = 20_000;
        private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(40);

        private readonly int _preemptions;
        private readonly SemaphoreSlim[] _go;
        private readonly SemaphoreSlim _over = new(0);
        private readonly Status[] _status;
        private readonly Thread[] _threads;

        private Action[] _programs = [];
        private Action<string> _onPoint = _ => { };
        private List<(int Choice, int Of)> _path = [];
        private int _choices;
        private int _steps;
        private int _preempted;
        private Exception? _failure;
        private bool _stop;

        internal Scheduler(int programs, int preemptions)
        {
            _preemptions = preemptions;
            _status = new Status[programs];
            _go = [.. _status.Select(_ => new SemaphoreSlim(0))];
            _threads = [.. _status.Select((_, i) => new Thread(() => Main(i)) { IsBackground = true, Name = $"interleaved {i}" })];
            Array.ForEach(_threads, t => t.Start());
        }

        internal void Play(List<(int Choice, int Of)> path, Action[] programs, Action<string> onPoint)
        {
            (_path, _programs, _onPoint) = (path, programs, onPoint);
            _choices = _steps = _preempted = 0;
            _failure = null;
            Array.Fill(_status, Status.Runnable);
            _go[Choose(-1)].Release();
            if (!_over.Wait(s_patience))
            {
                throw new TimeoutException("A step did not come back.");
            }

            if (_failure is not null)
            {
                throw new InvalidOperationException($"A program failed: {_failure.Message}", _failure);
            }
        }

        public void Dispose()
        {
            Volatile.Write(ref _stop, true);
            Array.ForEach(_go, g => g.Release());
        }

        private void Main(int me)
        {
            while (true)
            {
                _go[me].Wait();
                if (Volatile.Read(ref _stop))
                {
                    return;
                }

                InterleavingPoint.Install(place => Yield(me, place));
                try
                {
                    _programs[me]();
                }
                catch (Exception e)
                {
                    _failure ??= e;
                }

                InterleavingPoint.Install(null);
                _status[me] = Status.Ended;
                int next = Choose(me);
                (next < 0 ? _over : _go[next]).Release();
            }
        }

        private void Yield(int me, string place)
        {
            if (++_steps > MostSteps)
            {
                throw new InvalidOperationException($"The programs do not end: {place} after {MostSteps} steps.");
            }

            _onPoint(place);
            _status[me] = place == InterleavingPoint.Waits ? Status.Waiting : Status.Runnable;
            int next = Choose(me);
            if (next != me)
            {
                _go[next].Release();
                _go[me].Wait();
            }
        }

        // Who goes on after a step of that program; -1 when all have ended.
        private int Choose(int me)
        {
            for (int i = 0; i < _status.Length; i++)
            {
                // Something happened: whoever waited looks again.
                _status[i] = i != me && _status[i] == Status.Waiting ? Status.Runnable : _status[i];
            }

            bool mayGoOn = me >= 0 && _status[me] == Status.Runnable;
            List<int> options = [.. Enumerable.Range(0, _status.Length).Where(i => i != me && _status[i] == Status.Runnable)];
            if (mayGoOn)
            {
                if (_preempted >= _preemptions)
                {
                    return me;
                }

                options.Insert(0, me);
            }

            if (options.Count <= 1)
            {
                return options.Count == 1 ? options[0] : me >= 0 && _status[me] == Status.Waiting ? me : -1;
            }

            if (_choices == _path.Count)
            {
                _path.Add((0, options.Count));
            }

            (int choice, int of) = _path[_choices++];
            if (of != options.Count)
            {
                throw new InvalidOperationException($"The programs are not deterministic: {of} ways to go on, then {options.Count}.");
            }

            _preempted += mayGoOn && choice > 0 ? 1 : 0;
            return options[choice];
        }
    }
}
