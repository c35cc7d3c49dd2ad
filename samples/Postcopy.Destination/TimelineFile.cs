using Postcopy.Uffd;

namespace Postcopy.Destination;

/// <summary>The migration drawn into a file; what is drawn follows from how its name ends.</summary>
internal static class TimelineFile
{
    internal const string Endings = ".svg, .html or .json";

    /// <summary>How many blocked intervals are kept to be drawn.</summary>
    internal const int Capacity = 1_000_000;

    internal static bool IsKnown(string path) => Path.GetExtension(path).ToLowerInvariant() is ".svg" or ".html" or ".json";

    internal static void Write(string path, BlocktimeTimeline timeline)
    {
        using FileStream file = File.Create(path);
        switch (Path.GetExtension(path).ToLowerInvariant())
        {
            case ".json":
                timeline.WriteTrace(file);
                break;
            case ".svg":
                using (StreamWriter svg = new(file))
                {
                    timeline.WriteSvg(svg);
                }

                break;
            default:
                using (StreamWriter html = new(file))
                {
                    timeline.WriteHtml(html);
                }

                break;
        }
    }
}
