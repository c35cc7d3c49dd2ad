namespace Postcopy.Uffd.Tests.Blocktime;

/// <summary>
/// Runs small concurrent programs through every order of their steps: a step is the code between two yields of the real tracker.
/// One thread runs at a time, so the orders are those of sequential consistency; store buffers are for the model and the litmus test.
/// </summary>
internal static class Interleavings
{
    /// <summary>Builds a fresh state for each order, runs its programs, then checks it. Returns the number of orders.</summary>
    internal static int Enumerate<T>(Func<T> build, Action<T> check, int limit, params Action<T>[] programs)
    {
        List<(int Choice, int Of)> path = [];
        int orders = 0;
        do
        {
            T state = build();
            using (Round round = new([.. programs.Select<Action<T>, Action>(p => () => p(state))]))
            {
                round.Follow(path);
            }

            orders++;
            try
            {
                check(state);
            }
            catch (Exception e)
            {
                throw new InvalidOperationException($"order {orders}: {string.Join("", path.Select(p => p.Choice))}: {e.Message}", e);
            }

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

    private sealed class Round : IDisposable
    {
        private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);
        private readonly SemaphoreSlim[] _go;
        private readonly SemaphoreSlim _back = new(0);
        private readonly bool[] _ended;
        private readonly Task[] _tasks;
        private Exception? _failure;

        internal Round(Action[] programs)
        {
            _go = [.. programs.Select(_ => new SemaphoreSlim(0))];
            _ended = new bool[programs.Length];
            _tasks = [.. programs.Select((p, i) => Task.Run(() => Body(p, i)))];
        }

        internal void Follow(List<(int Choice, int Of)> path)
        {
            for (int step = 0; ; step++)
            {
                int[] runnable = [.. Enumerable.Range(0, _ended.Length).Where(i => !_ended[i])];
                if (runnable.Length == 0)
                {
                    break;
                }

                if (step == path.Count)
                {
                    path.Add((0, runnable.Length));
                }

                _go[runnable[path[step].Choice]].Release();
                if (!_back.Wait(s_patience))
                {
                    throw new TimeoutException("A step did not come back.");
                }
            }

            Task.WaitAll(_tasks, s_patience);
            if (_failure is not null)
            {
                throw new InvalidOperationException("A program failed.", _failure);
            }
        }

        public void Dispose()
        {
            _back.Dispose();
            Array.ForEach(_go, s => s.Dispose());
        }

        private void Body(Action program, int index)
        {
            _go[index].Wait(s_patience);
            InterleavingPoint.Install(_ =>
            {
                _back.Release();
                _go[index].Wait(s_patience);
            });
            try
            {
                program();
            }
            catch (Exception e)
            {
                _failure = e;
            }

            InterleavingPoint.Install(null);
            _ended[index] = true;
            _back.Release();
        }
    }
}
