using System.Globalization;

namespace Postcopy.Breaking.Tests;

/// <summary>How much of a test is run: a little by default, all of it where an environment variable says so (eng/evidence.sh).</summary>
internal static class Full
{
    internal static int Count(string variable, int standard) =>
        int.TryParse(Environment.GetEnvironmentVariable(variable), CultureInfo.InvariantCulture, out int n) ? n : standard;
}
