using System.Text;

namespace Postcopy.Vmm.Machine;

/// <summary>What the guest prints, line by line. vCPU threads write; anybody may wait for a line.</summary>
internal sealed class SerialPort
{
    private readonly Lock _lock = new();
    private readonly StringBuilder _line = new();
    private readonly List<string> _lines = [];
    private readonly List<(Func<string, bool> Wanted, TaskCompletionSource<string> Found)> _waiters = [];

    /// <summary>Called for each complete line on the vCPU's thread, one at a time.</summary>
    internal Action<string>? OnLine { get; set; }

    /// <summary>All lines so far.</summary>
    internal string[] Lines
    {
        get
        {
            lock (_lock)
            {
                return [.. _lines];
            }
        }
    }

    /// <summary>The line that is not complete yet: it moves with the guest.</summary>
    internal string Pending
    {
        get
        {
            lock (_lock)
            {
                return _line.ToString();
            }
        }
        set
        {
            lock (_lock)
            {
                _ = _line.Clear().Append(value);
            }
        }
    }

    internal void Transmit(byte character)
    {
        lock (_lock)
        {
            if (character != '\n')
            {
                _ = _line.Append((char)character);
                return;
            }

            string line = _line.ToString();
            _ = _line.Clear();
            _lines.Add(line);
            OnLine?.Invoke(line);
            for (int i = _waiters.Count - 1; i >= 0; i--)
            {
                if (_waiters[i].Wanted(line) && _waiters[i].Found.TrySetResult(line))
                {
                    _waiters.RemoveAt(i);
                }
            }
        }
    }

    /// <summary>The next line that is wanted, from now on.</summary>
    internal Task<string> NextAsync(Func<string, bool> wanted)
    {
        TaskCompletionSource<string> found = new(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_lock)
        {
            _waiters.Add((wanted, found));
        }

        return found.Task;
    }
}
