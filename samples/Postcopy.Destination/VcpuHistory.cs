using Postcopy.Uffd;

namespace Postcopy.Destination;

/// <summary>For which share of each of the last frames a vCPU was blocked: one character of its lane a frame.</summary>
internal sealed class VcpuHistory
{
    // Blank, light, medium, dark, full; the second row where the terminal has no Unicode.
    private const string Shades = " \u2591\u2592\u2593\u2588";
    private const string PlainShades = " .:+#";

    private readonly double[] _shares = new double[256];
    private long _lastBlocked;
    private long _frames;

    /// <summary>The share of the newest frame.</summary>
    internal double Now => _frames == 0 ? 0 : _shares[(_frames - 1) % _shares.Length];

    /// <summary>Adds a frame from the blocked time so far.</summary>
    internal void Add(long blocked, long frame)
    {
        _shares[_frames++ % _shares.Length] = frame <= 0 ? 0 : Math.Clamp((double)(blocked - _lastBlocked) / frame, 0, 1);
        _lastBlocked = blocked;
    }

    /// <summary>The newest frames at the right, in as many columns.</summary>
    internal string Lane(int width, bool unicode)
    {
        string shades = unicode ? Shades : PlainShades;
        return string.Create(width, (this, shades), static (lane, from) =>
        {
            (VcpuHistory history, string shades) = from;
            for (int i = 0; i < lane.Length; i++)
            {
                long frame = history._frames - lane.Length + i;
                double share = frame < 0 || history._frames - frame > history._shares.Length ? 0 : history._shares[frame % history._shares.Length];
                lane[i] = shades[share <= 0 ? 0 : Math.Min(shades.Length - 1, 1 + (int)(share * (shades.Length - 1)))];
            }
        });
    }
}
