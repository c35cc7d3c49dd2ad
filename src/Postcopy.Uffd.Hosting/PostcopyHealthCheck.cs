using System.Diagnostics;
using Microsoft.Extensions.Diagnostics.HealthChecks;

namespace Postcopy.Uffd.Hosting;

/// <summary>Unhealthy when the migration failed; degraded while the link is down or a page stays away; else healthy.</summary>
internal sealed class PostcopyHealthCheck(PostcopyReceiver receiver) : IHealthCheck
{
    public Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken = default)
    {
        PostcopyDestination destination = receiver.Destination;
        PostcopyState state = destination.State;
        TimeSpan oldest = destination.Blocktime is { } blocktime && blocktime.TryGetOldestStall(out OpenStall stall)
            ? TimeSpan.FromTicks(Math.Max(0, Stopwatch.GetTimestamp() - stall.Since) / TimeSpan.NanosecondsPerTick)
            : TimeSpan.Zero;
        Dictionary<string, object> data = new()
        {
            ["state"] = state.ToString(),
            ["missingBytes"] = destination.Blocks.MissingBytes,
            ["lostConnections"] = receiver.Statistics.LostConnections,
            ["oldestStallSeconds"] = oldest.TotalSeconds,
        };
        HealthCheckResult result = receiver.Completion switch
        {
            { IsFaulted: true, Exception: { } failure } => new(context.Registration.FailureStatus, $"The migration failed: {failure.InnerException!.Message}", failure.InnerException, data),
            _ when state == PostcopyState.Failed => new(context.Registration.FailureStatus, "The migration failed.", data: data),
            _ when state == PostcopyState.Paused => HealthCheckResult.Degraded("The link to the source is down; vCPUs that touch missing pages wait.", data: data),
            _ when oldest >= receiver.StallAlarm => HealthCheckResult.Degraded($"A page has been asked for {oldest.TotalSeconds:0.0} s ago and is not here.", data: data),
            _ when state == PostcopyState.None => HealthCheckResult.Healthy("Waiting for a source.", data),
            _ when state == PostcopyState.End => HealthCheckResult.Healthy("The guest is here.", data),
            _ => HealthCheckResult.Healthy("The guest is on its way.", data),
        };
        return Task.FromResult(result);
    }
}
