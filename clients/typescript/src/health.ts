import { Client, connectivityState, credentials, experimental, Metadata, status } from "@grpc/grpc-js";
import type { ChannelOptions, ClientReadableStream } from "@grpc/grpc-js";

// grpc-js has round_robin, but does not ask daemons for their health. This policy is round_robin over connections that do.

/** The name of the policy in a service config. */
export const policy = "ratelimitd_healthy_round_robin";

/** How long to wait, in ms, before a watch that ended is begun again. */
const pause = 500;

type Subchannel = experimental.SubchannelInterface;

/** A connection that is ready only once its daemon has said whether it serves, and healthy while it says so. */
class WatchedSubchannel extends experimental.BaseSubchannelWrapper {
  #answered = false;
  #watch: ClientReadableStream<boolean> | undefined;
  #again: NodeJS.Timeout | undefined;
  readonly #listeners = new Set<experimental.ConnectivityStateListener>();
  readonly #onState: experimental.ConnectivityStateListener = (_, previous, state, keepalive, error) => {
    if (state === connectivityState.READY) return this.#begin();
    const before = this.#answered ? previous : connectivityState.CONNECTING;
    this.#end();
    this.#tell(before, state, keepalive, error);
  };

  constructor(child: Subchannel) {
    super(child);
    child.addConnectivityStateListener(this.#onState);
    if (child.getConnectivityState() === connectivityState.READY) this.#begin();
  }

  override getConnectivityState(): connectivityState {
    const state = this.child.getConnectivityState();
    return state === connectivityState.READY && !this.#answered ? connectivityState.CONNECTING : state;
  }

  override addConnectivityStateListener(listener: experimental.ConnectivityStateListener): void {
    this.#listeners.add(listener);
  }

  override removeConnectivityStateListener(listener: experimental.ConnectivityStateListener): void {
    this.#listeners.delete(listener);
  }

  protected override destroy(): void {
    this.child.removeConnectivityStateListener(this.#onState);
    this.#end();
    super.destroy();
  }

  #tell(before: connectivityState, state: connectivityState, keepalive = 0, error?: string): void {
    for (const listener of [...this.#listeners]) listener(this, before, state, keepalive, error);
  }

  #begin(): void {
    this.#end();
    // The channel is that of this connection alone, and has its TLS.
    const client = new Client("health", credentials.createInsecure(), { channelOverride: this.child.getChannel() });
    const watch = client.makeServerStreamRequest("/grpc.health.v1.Health/Watch", Buffer.from, isServing, [], new Metadata());
    this.#watch = watch;
    watch.on("data", (serving: boolean) => {
      if (this.#watch === watch) this.#answer(serving);
    });
    watch.on("error", () => {}); // it is the status too
    watch.on("status", ({ code }) => {
      if (this.#watch !== watch) return;
      this.#watch = undefined;
      if (code === status.UNIMPLEMENTED) return this.#answer(true); // it has no health service
      this.#again = setTimeout(() => this.#begin(), pause).unref();
    });
  }

  #answer(serving: boolean): void {
    this.setHealthy(serving);
    if (this.#answered) return;
    this.#answered = true;
    this.#tell(connectivityState.CONNECTING, connectivityState.READY);
  }

  /** Forgets what the daemon said: it is another connection, or none. */
  #end(): void {
    const watch = this.#watch;
    this.#watch = undefined;
    watch?.cancel();
    clearTimeout(this.#again);
    this.#answered = false;
  }
}

/** Reports whether a grpc.health.v1.HealthCheckResponse has the status SERVING: field 1 is 1. */
function isServing(message: Buffer): boolean {
  return message.length >= 2 && message[0] === 8 && message[1] === 1;
}

class HealthyRoundRobin implements experimental.LoadBalancer {
  readonly #child: experimental.ChildLoadBalancerHandler;

  constructor(helper: experimental.ChannelControlHelper) {
    this.#child = new experimental.ChildLoadBalancerHandler(
      experimental.createChildChannelControlHelper(helper, {
        createSubchannel: (address, options) => new WatchedSubchannel(helper.createSubchannel(address, options)),
      }),
    );
  }

  updateAddressList(
    endpoints: experimental.StatusOr<experimental.Endpoint[]>,
    _: experimental.TypedLoadBalancingConfig,
    options: ChannelOptions,
    note: string,
  ): boolean {
    return this.#child.updateAddressList(endpoints, experimental.parseLoadBalancingConfig({ round_robin: {} }), options, note);
  }

  exitIdle(): void {
    this.#child.exitIdle();
  }

  resetBackoff(): void {
    this.#child.resetBackoff();
  }

  destroy(): void {
    this.#child.destroy();
  }

  getTypeName(): string {
    return policy;
  }
}

class Config implements experimental.TypedLoadBalancingConfig {
  getLoadBalancerName(): string {
    return policy;
  }

  toJsonObject(): object {
    return { [policy]: {} };
  }

  static createFromJson(): Config {
    return new Config();
  }
}

experimental.registerLoadBalancerType(policy, HealthyRoundRobin, Config);
