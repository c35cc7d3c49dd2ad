using System.Text;
using System.Text.Json;

namespace Postcopy.Uffd.Qemu;

/// <content>For machines. Written by hand: no reflection, so it survives trimming and ahead-of-time compilation.</content>
public sealed partial record MigrationReport
{
    /// <summary>
    /// A JSON object with the members of query-migrate, QEMU 11.1's, and <see cref="BlocktimeReport.DetailMember"/> with our
    /// finer figures. What only a source can count (dirty pages, multifd) is there and 0, so that strict readers read it.
    /// </summary>
    /// <param name="indented">Whether to break lines.</param>
    /// <returns>The text.</returns>
    public string ToJson(bool indented = false)
    {
        using MemoryStream stream = new();
        using (Utf8JsonWriter json = new(stream, new JsonWriterOptions { Indented = indented }))
        {
            json.WriteStartObject();
            json.WriteString("status", Status);
            json.WriteNumber("total-time", (long)TotalTime.TotalMilliseconds);
            if (Error is not null)
            {
                json.WriteString("error-desc", Error);
            }

            json.WriteStartObject("ram");
            WriteRam(json);
            json.WriteEndObject();
            Blocktime?.WriteJson(json);
            json.WriteEndObject();
        }

        return Encoding.UTF8.GetString(stream.GetBuffer(), 0, (int)stream.Length);
    }

    private void WriteRam(Utf8JsonWriter json)
    {
        json.WriteNumber("total", TotalBytes);
        json.WriteNumber("remaining", RemainingBytes);
        json.WriteNumber("transferred", TransferredBytes);
        json.WriteNumber("precopy-bytes", PrecopyBytes);
        json.WriteNumber("downtime-bytes", 0);
        json.WriteNumber("postcopy-bytes", PostcopyBytes);
        json.WriteNumber("multifd-bytes", 0);
        json.WriteNumber("page-size", PageBytes);
        json.WriteNumber("normal", NormalPages);
        json.WriteNumber("normal-bytes", NormalPages * PageBytes);
        json.WriteNumber("duplicate", ZeroPages);
        json.WriteNumber("postcopy-requests", Requests);
        json.WriteNumber("mbps", Math.Round(MegabitsPerSecond, 2));
        json.WriteNumber("pages-per-second", PagesPerSecond);
        json.WriteNumber("dirty-pages-rate", 0);
        json.WriteNumber("dirty-sync-count", 0);
        json.WriteNumber("dirty-sync-missed-zero-copy", 0);
    }
}
