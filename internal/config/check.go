package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/admission"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
)

const (
	// maxMaxLogCount keeps the log of one counter to 16 MB.
	maxMaxLogCount = 1_000_000
	// maxMemoryKeys is what a machine with 1 TB holds.
	maxMemoryKeys = 10_000_000_000
	// maxMaxConnections is more connections than a process can have.
	maxMaxConnections = 10_000_000
	// A request has up to 16 counters, so that fewer than minInFlight would be of no use.
	// maxInFlight is more than any store answers in time.
	minInFlight, maxInFlight = 16, 1_000_000
	// maxConns is more connections than a store serves well.
	maxConns = 10_000
)

// A check collects what is wrong with a Config.
type check struct {
	c     *Config
	found int     // how many problems
	wrong []error // those that the file of --config does not keep
}

// check returns all that is wrong with the values of the settings: whatever would
// keep the daemon from starting, as far as this process can tell without
// opening a port or a connection.
func (c *Config) check() []error {
	k := &check{c: c}
	k.addresses()
	if path := k.c.MetricsPath; !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " {}?#") {
		k.problem("metrics-path", " %s: write a path, such as /metrics", flags.Quote(path))
	}
	k.trust()
	k.stores()
	k.memory()
	switch c.Store.Kind {
	case Memory:
	case Redis:
		k.redis()
	case Memcached:
		k.memcached()
	}
	k.envoy()
	k.bounds()
	k.xds()
	if c.TestClock {
		k.testClock()
	}
	k.duration("drain-timeout", c.DrainTimeout, "10s")
	k.must(c.ShutdownDelay >= 0, "shutdown-delay", c.ShutdownDelay, "0 or above, such as 5s")
	for flag, n := range map[string]int{"max-connections": c.MaxConnections, "max-connections-per-address": c.MaxConnectionsPerAddress} {
		k.must(n >= 0 && n <= maxMaxConnections, flag, n, fmt.Sprintf("0 to %d, such as 10000; 0 is the default", maxMaxConnections))
	}
	return k.wrong
}

// problem adds what is wrong with the value of a flag.
func (k *check) problem(flag, format string, args ...any) {
	k.found++
	if err := k.c.flags.Problem(flag, fmt.Sprintf(format, args...)); err != nil {
		k.wrong = append(k.wrong, err)
	}
}

// must adds that a value is to be something else, unless it is ok.
func (k *check) must(ok bool, flag string, value any, be string) {
	if !ok {
		k.problem(flag, " %v: must be %s", value, be)
	}
}

func (k *check) duration(flag string, d time.Duration, example string) {
	k.must(d > 0, flag, d, "above 0, such as "+example)
}

func (k *check) option(flag string, err error) bool {
	if err != nil {
		k.problem(flag, ": %v", err)
	}
	return err == nil
}

// A listener is an address that the daemon listens on.
type listener struct{ flag, addr, example string }

// listeners returns the addresses that the daemon listens on.
func (c *Config) listeners() []listener {
	all := []listener{{"grpc-addr", c.GRPCAddr, "127.0.0.1:8081"}, {"http-addr", c.HTTPAddr, "127.0.0.1:8080"}}
	if c.AdminAddr != AdminOff {
		all = append(all, listener{"admin-addr", c.AdminAddr, "127.0.0.1:6070, or off"})
	}
	if c.MetricsAddr != "" {
		all = append(all, listener{"metrics-addr", c.MetricsAddr, "127.0.0.1:9090"})
	}
	if c.RESPAddr != "" {
		all = append(all, listener{"resp-addr", c.RESPAddr, "127.0.0.1:6379"})
	}
	return all
}

func (k *check) addresses() {
	all := k.c.listeners()
	for i, l := range all {
		if problem := addressProblem(l.addr); problem != "" {
			k.problem(l.flag, " %s: %s; write host:port, such as %s", flags.Quote(l.addr), problem, l.example)
			continue
		}
		for _, other := range all[:i] {
			if overlap(l.addr, other.addr) {
				k.problem(l.flag, " %q: --%s has this address too; choose another port", l.addr, other.flag)
			}
		}
	}
}

// testClock adds why there can be no clock that stands still: nobody who is not testing is
// to meet a daemon whose limits never recover.
func (k *check) testClock() {
	if k.c.Store.Kind != Memory {
		k.problem("test-clock", ": with --store=%s the clock is not ours to turn; use --store=memory", k.c.Store.Kind)
	}
	if k.c.AdminAddr == AdminOff {
		k.problem("test-clock", ": the admin port turns the clock, and --admin-addr is off; write --admin-addr=127.0.0.1:0")
	}
	for _, l := range k.c.listeners() {
		host, port, err := net.SplitHostPort(l.addr)
		if err == nil && !addressOf(host).IsLoopback() {
			k.problem("test-clock", ": other machines may reach --%s %s; write --%[1]s=%[3]s", l.flag, flags.Quote(l.addr), net.JoinHostPort("127.0.0.1", port))
		}
	}
}

// addressProblem says why nothing can listen on addr, or "".
func addressProblem(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	switch {
	case addr == "":
		return "it is empty"
	case err != nil && strings.Count(addr, ":") > 1:
		return "an IPv6 address needs brackets, as in [::1]:8081"
	case err != nil:
		return "it has no port"
	case !isPort(port):
		return "the port is not a number from 0 to 65535"
	case !isHost(host):
		return "the host is neither an IP address nor a name"
	}
	return ""
}

func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}

// isHost reports whether text may be a host: nothing, an IP address, or a name,
// whose last part is not a number.
func isHost(text string) bool {
	if _, err := netip.ParseAddr(text); err == nil || text == "" {
		return true
	}
	labels := strings.Split(strings.TrimSuffix(text, "."), ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notOfName) {
			return false
		}
	}
	_, err := strconv.Atoi(labels[len(labels)-1])
	return err != nil && len(text) < 255
}

func notOfName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// overlap reports whether nobody can listen on both addresses. Names of hosts
// are not looked up.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	ipA, ipB := addressOf(hostA), addressOf(hostB)
	switch {
	case hostA == hostB || ipA == ipB && ipA.IsValid():
		return true
	case ipA == netip.IPv6Unspecified() || ipB == netip.IPv6Unspecified():
		return true // which is all of IPv4 too
	default:
		return ipA.Is4() && ipB.Is4() && (ipA.IsUnspecified() || ipB.IsUnspecified())
	}
}

// addressOf returns the IP address of a host, if it is known without a lookup.
func addressOf(host string) netip.Addr {
	switch host {
	case "":
		return netip.IPv6Unspecified()
	case "localhost":
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	ip, _ := netip.ParseAddr(host)
	return ip.Unmap()
}

// ListenError returns err in plain words, if it says that another process listens
// on an address of c.
func (c *Config) ListenError(err error) error {
	var listen *net.OpError
	if !errors.Is(err, syscall.EADDRINUSE) || !errors.As(err, &listen) || listen.Addr == nil {
		return err
	}
	takenHost, takenPort, _ := net.SplitHostPort(listen.Addr.String())
	for _, l := range c.listeners() {
		host, port, _ := net.SplitHostPort(l.addr)
		if ip := addressOf(host); port == takenPort && (!ip.IsValid() || ip.IsUnspecified() || ip == addressOf(takenHost)) {
			return fmt.Errorf("%s %q: another process listens on this address; stop it, or choose another address", c.nameOf(l.flag), l.addr)
		}
	}
	return err
}

func (k *check) stores() {
	s := &k.c.Store
	k.duration("store-timeout", s.Timeout, "50ms")
	k.must(s.DenyCacheTTL >= 0, "deny-cache-ttl", s.DenyCacheTTL, "0 or above, such as 1s")
	k.must(s.ReservationTTL >= time.Second && s.ReservationTTL <= decide.MaxReservationLife, "reservation-ttl", s.ReservationTTL, "1s to 168h, such as 1h")
	k.must(s.MaxLogCount > 0 && s.MaxLogCount <= maxMaxLogCount, "max-log-count", s.MaxLogCount, fmt.Sprintf("1 to %d, such as 10000", maxMaxLogCount))
	k.must(s.MaxInFlight >= minInFlight && s.MaxInFlight <= maxInFlight, "store-max-in-flight", s.MaxInFlight, fmt.Sprintf("%d to %d, such as %d", minInFlight, maxInFlight, admission.DefaultCapacity))
	r := &k.c.redis
	k.must(r.Database >= 0, "redis-database", r.Database, "0 or above, such as 0")
	k.must(r.PoolSize >= 0 && r.PoolSize <= maxConns, "redis-pool-size", r.PoolSize, fmt.Sprintf("0 to %d, such as 64", maxConns))
	k.must(r.MinIdle >= 0, "redis-min-idle", r.MinIdle, "0 or above, such as 4")
	k.duration("redis-dial-timeout", r.DialTimeout, "1s")
	m := &k.c.memcached
	k.must(m.MaxConns > 0 && m.MaxConns <= maxConns, "memcached-max-conns", m.MaxConns, fmt.Sprintf("1 to %d, such as 64", maxConns))
}

// memory checks what every daemon needs: one that counts elsewhere counts in
// memory for --on-error=local.
func (k *check) memory() {
	k.snapshots()
	o := k.c.MemoryOptions()
	if o.MaxKeys < 1 || o.MaxKeys > maxMemoryKeys {
		k.must(false, "memory-max-keys", o.MaxKeys, fmt.Sprintf("1 to %d, such as %d", maxMemoryKeys, memory.DefaultMaxKeys))
		return
	}
	k.option("memory-shards", o.Check())
}

// snapshots checks where the counters in memory are kept. Whether the daemon may write
// there shows when it starts.
func (k *check) snapshots() {
	k.duration("memory-snapshot-interval", k.c.snapshots.Interval, "10s")
	file := k.c.snapshots.File
	if file == "" {
		return
	}
	if k.c.Store.Kind != Memory {
		k.problem("memory-snapshot", " %s: with --store=%s the counters are not in memory; leave it out, or use --store=memory", flags.Quote(file), k.c.Store.Kind)
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		k.problem("memory-snapshot", " %s: is no regular file; write one, such as /var/lib/ratelimitd/counters", flags.Quote(file))
	}
	dir := filepath.Dir(file)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		k.problem("memory-snapshot", " %s: there is no directory %s; make it", flags.Quote(file), flags.Quote(dir))
	}
}

// redis checks each option beside the URLs alone, so that the message names its
// flag, and then all together.
func (k *check) redis() {
	o := k.c.RedisOptions()
	if len(o.URLs) == 0 {
		k.problem("redis-url", ": is empty; write one or several URLs, such as %s", redis.DefaultURL)
		return
	}
	base := redis.Options{URLs: o.URLs, MasterName: o.MasterName}
	if o.Password != "" || o.PasswordFile != "" || o.AuthFile != "" {
		base.Password = "any" // as a user needs one
	}
	if !k.option("redis-url", base.Check()) {
		return
	}
	before := k.found
	with := func(flag string, set func(*redis.Options)) {
		one := base
		set(&one)
		k.option(flag, one.Check())
	}
	with("redis-sentinel-user", func(one *redis.Options) { one.SentinelUser = o.SentinelUser })
	with("redis-sentinel-password", func(one *redis.Options) { one.SentinelPassword = o.SentinelPassword })
	with("redis-shared-scripts", func(one *redis.Options) {
		one.Cluster, one.SharedScripts = o.Cluster && o.MasterName == "" && o.SharedScripts == redis.ShareAlways, o.SharedScripts
	})
	with("redis-key-prefix", func(one *redis.Options) { one.KeyPrefix = o.KeyPrefix })
	if o.MasterName != "" {
		with("redis-sentinel-master", func(one *redis.Options) { one.Cluster = o.Cluster })
	}
	userFlag := "redis-user"
	if o.User == "" { // then it is in a URL
		userFlag = "redis-url"
	}
	with(userFlag, func(one *redis.Options) {
		one.User = o.User
	})
	for _, file := range []struct{ flag, password, auth string }{{"redis-password-file", o.PasswordFile, ""}, {"redis-auth-file", o.PasswordFile, o.AuthFile}} {
		if file.password+file.auth != "" {
			with(file.flag, func(one *redis.Options) {
				one.User, one.Password, one.PasswordFile, one.AuthFile = o.User, o.Password, file.password, file.auth
			})
		}
	}
	if o.Database > 0 {
		with("redis-database", func(one *redis.Options) { one.Cluster, one.Database = o.Cluster && o.MasterName == "", o.Database })
	}
	with("redis-tls-ca", func(one *redis.Options) { one.CAFile = o.CAFile })
	if o.CertFile != "" || o.KeyFile != "" {
		flag := "redis-tls-cert"
		if o.CertFile == "" {
			flag = "redis-tls-key"
		}
		with(flag, func(one *redis.Options) { one.CertFile, one.KeyFile = o.CertFile, o.KeyFile })
	}
	with("redis-tls-server-name", func(one *redis.Options) { one.ServerName = o.ServerName })
	if o.MinIdle > 0 && o.PoolSize >= 0 && o.PoolSize <= maxConns {
		with("redis-min-idle", func(one *redis.Options) { one.PoolSize, one.MinIdle = o.PoolSize, o.MinIdle })
	}
	if k.found == before { // what is wrong only with the whole
		k.option("redis-url", o.Check())
	}
}

func (k *check) memcached() {
	o := k.c.MemcachedOptions()
	if len(o.Addrs) == 0 {
		k.problem("memcached-addr", ": is empty; write one or several addresses, such as %s", memcached.DefaultAddr)
		return
	}
	k.option("memcached-key-prefix", store.CheckKeyPrefix(o.KeyPrefix))
	for i, addr := range o.Addrs {
		one := memcached.Options{Addrs: []string{addr}}
		if one.Check() != nil { // whose error quotes the address as it is
			k.problem("memcached-addr", " %s: write it as host:port, such as %s", flags.Quote(addr), memcached.DefaultAddr)
		} else if slices.Contains(o.Addrs[:i], addr) {
			k.problem("memcached-addr", " %s: is there twice; write each server once", flags.Quote(addr))
		}
	}
}

func (k *check) envoy() {
	e := &k.c.Envoy
	for _, h := range []struct{ flag, name string }{
		{"envoy-limit-header", e.LimitHeader}, {"envoy-remaining-header", e.RemainingHeader}, {"envoy-reset-header", e.ResetHeader},
	} {
		if !isHeader(h.name) {
			k.problem(h.flag, " %s: is not the name of a header, such as RateLimit-Limit", flags.Quote(h.name))
		}
	}
	k.must(e.NearLimitRatio > 0 && e.NearLimitRatio <= 1, "envoy-near-limit-ratio", e.NearLimitRatio, "above 0 and at most 1, such as 0.8")
	if e.AllOrNone && e.Overdraw == envoy.OverdrawAlways {
		k.problem("envoy-overdraw", " %s: with --envoy-all-or-none, what is over a limit is not counted; leave one of them out, or write overdraw: always at the limits that it is for", e.Overdraw)
	}
	if e.ConfigDir == "" {
		return
	}
	if info, err := os.Stat(e.ConfigDir); err == nil && !info.IsDir() {
		k.problem("envoy-config-dir", " %s: is not a directory; write one, such as /etc/ratelimitd/envoy", flags.Quote(e.ConfigDir))
	}
}

// isHeader reports whether name may be the name of an HTTP header: a token of
// RFC 9110.
func isHeader(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return notOfName(r) && !strings.ContainsRune("!#$%&'*+.^`|~", r)
	})
}
