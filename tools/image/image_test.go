package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const version = "v1.2.3-test"

// makeImage returns the file that "make image" writes.
func makeImage(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	cmd := exec.CommandContext(t.Context(), "make", "-C", "../..", "image", "IMAGE="+file, "VERSION="+version)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

// unpack writes what a tar file holds into a new directory, which everybody may read.
func unpack(t *testing.T, r io.Reader) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ratelimitd-image") //nolint:usetesting // nobody else may enter the parent of t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // its user is another
		t.Fatal(err)
	}
	for files := tar.NewReader(r); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, filepath.Clean("/"+h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(to, h.FileInfo().Mode())
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, to)
		case tar.TypeReg:
			var data []byte
			if data, err = io.ReadAll(files); err == nil {
				err = os.WriteFile(to, data, h.FileInfo().Mode())
			}
		default:
			t.Errorf("%s: type %q, want files, directories and links", h.Name, h.Typeflag)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A container is an unpacked image that can run, in a chroot and as its user, on the
// network of this machine.
type container struct {
	root   string
	config v1.Config
}

// command returns a program of c that runs with nothing but what the image says.
func (c *container) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env, cmd.Dir = c.config.Env, "/"
	if !filepath.IsAbs(args[0]) { // as a container's runtime does, by the image's PATH
		for dir := range strings.SplitSeq(strings.TrimPrefix(c.config.Env[0], "PATH="), ":") {
			if _, err := os.Lstat(filepath.Join(c.root, dir, args[0])); err == nil {
				cmd.Path, cmd.Err = filepath.Join(dir, args[0]), nil
			}
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.root}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
		return cmd
	}
	// Without root's rights, a user namespace has a root and a user of its own.
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 65534, HostID: os.Getuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 65534, HostID: os.Getgid(), Size: 1}}
	return cmd
}

func (c *container) runs(t *testing.T, args ...string) (out string, status int) {
	t.Helper()
	cmd := c.command(t.Context(), args...)
	text, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("%v: %v", args, err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// TestImage makes the image twice, and has its parts be what they should. Then it
// unpacks the image and runs it.
func TestImage(t *testing.T) {
	file := makeImage(t)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(makeImage(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, again) {
		t.Error("the image was made twice, and is not the same")
	}

	named, err := layout.ImageIndexFromPath(unpack(t, bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(named); err != nil {
		t.Error(err)
	}
	names, err := named.IndexManifest()
	if err != nil || len(names.Manifests) != 1 {
		t.Fatalf("%v, %v, want one index", names, err)
	}
	index, err := named.ImageIndex(names.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if got := manifest.Annotations["org.opencontainers.image.version"]; got != version {
		t.Errorf("the index is of version %q, want %q", got, version)
	}
	var archs []string
	var native v1.Image
	for _, m := range manifest.Manifests {
		img, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if m.Platform == nil || m.Platform.OS != "linux" || config.OS != "linux" || config.Architecture != m.Platform.Architecture {
			t.Errorf("platform %v, and the image is for %s/%s", m.Platform, config.OS, config.Architecture)
		}
		if config.Config.User != "65534:65534" || config.Config.Labels["org.opencontainers.image.version"] != version {
			t.Errorf("%+v: want the user 65534:65534 and the label of the version", config.Config)
		}
		archs = append(archs, config.Architecture)
		if config.Architecture == runtime.GOARCH {
			native = img
		}
	}
	if !slices.Equal(archs, []string{"amd64", "arm64"}) {
		t.Errorf("it is for %v, want amd64 and arm64", archs)
	}
	if docker, err := tarball.ImageFromPath(file, nil); err != nil {
		t.Errorf("as Docker's own format: %v", err)
	} else if err := validate.Image(docker); err != nil {
		t.Errorf("as Docker's own format: %v", err)
	}
	if native == nil {
		t.Fatalf("there is none for %s", runtime.GOARCH)
	}
	config, err := native.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	flat := mutate.Extract(native)
	defer func() { _ = flat.Close() }()
	runImage(t, &container{unpack(t, flat), config.Config})
}

// runImage starts the daemon as the image does and asks it with the programs inside.
func runImage(t *testing.T, c *container) {
	t.Helper()
	certificates, err := os.ReadFile(filepath.Join(c.root, "etc/ssl/certs/ca-certificates.crt"))
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(certificates) || bytes.Count(certificates, []byte("BEGIN")) < 50 {
		t.Errorf("there are few certificate authorities, or none: %v", err)
	}
	for _, module := range []string{"go", "github.com/ratelimitd/ratelimitd", "google.golang.org/grpc", "github.com/redis/go-redis/v9"} {
		if _, err := os.Stat(filepath.Join(c.root, licenceDir, module, "LICENSE")); err != nil {
			t.Error(err)
		}
	}

	args := slices.Concat(c.config.Entrypoint, c.config.Cmd, []string{"--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--log-format=json"})
	at := c.serve(t, nil, args...)
	_, port, err := net.SplitHostPort(at.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	limit := []string{"--addr=127.0.0.1:" + port, "--wait=20s", "--namespace=a", "--identifier=b", "--rate=1/366d"}
	for _, tt := range []struct {
		args   []string
		says   string
		status int
	}{
		{append([]string{"ratelimitd", "check"}, limit...), "allowed (within limit)", 0},
		{append([]string{"/ratelimitd", "check"}, limit...), "denied (over limit)", 1},
		{append([]string{"ratelimitd", "reset"}, limit...), "reset", 0},
		{append([]string{"/bin/ratelimit", "check"}, limit...), "allowed (within limit)", 0},
		{[]string{"ratelimitd", "top", "--admin-addr=" + at.Admin, "--interval=100ms", "--once"}, "b", 0},
		{[]string{"ratelimitd", "version"}, version, 0},
	} {
		if out, status := c.runs(t, tt.args...); status != tt.status || !strings.Contains(out, tt.says) {
			t.Errorf("%v: exit status %d, %s, want %d, %s", tt.args, status, out, tt.status, tt.says)
		}
	}
	runGateway(t, c)
}

// runGateway starts the daemon as Envoy Gateway does: by /bin/ratelimit without arguments,
// with its environment but for the ports, and here without its certificates and its xDS
// server, which may come late. The probes of the pod must pass.
func runGateway(t *testing.T, c *container) {
	t.Helper()
	at := c.serve(t, []string{
		"GRPC_HOST=127.0.0.1", "GRPC_PORT=0", "HOST=127.0.0.1", "PORT=0", "RATELIMITD_ADMIN_ADDR=off", "RATELIMITD_LOG_FORMAT=json",
		"RUNTIME_ROOT=/data", "RUNTIME_SUBDIRECTORY=ratelimit", "RUNTIME_IGNOREDOTFILES=true", "RUNTIME_WATCH_ROOT=false",
		"LOG_LEVEL=info", "USE_STATSD=false", "USE_PROMETHEUS=true", "PROMETHEUS_ADDR=127.0.0.1:0", "PROMETHEUS_MAPPER_YAML=/etc/statsd-exporter/conf.yaml",
		"CONFIG_TYPE=GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_SERVER_URL=127.0.0.1:1", "CONFIG_GRPC_XDS_NODE_ID=envoy-ratelimit",
		"GRPC_SERVER_USE_TLS=true", "GRPC_SERVER_TLS_CERT=/certs/tls.crt", "GRPC_SERVER_TLS_KEY=/certs/tls.key", "GRPC_SERVER_TLS_CA_CERT=/certs/ca.crt",
		"CONFIG_GRPC_XDS_SERVER_USE_TLS=true", "CONFIG_GRPC_XDS_CLIENT_TLS_CERT=/certs/tls.crt", "CONFIG_GRPC_XDS_CLIENT_TLS_KEY=/certs/tls.key", "CONFIG_GRPC_XDS_SERVER_TLS_CACERT=/certs/ca.crt",
		"FORCE_START_WITHOUT_INITIAL_CONFIG=true", "REDIS_SOCKET_TYPE=tcp", "REDIS_URL=redis.redis-system.svc:6379",
	}, "/bin/ratelimit")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at.HTTP+"/healthcheck", nil)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reply.Body.Close() }()
	if body, err := io.ReadAll(reply.Body); err != nil || reply.StatusCode != http.StatusOK || string(body) != "OK" {
		t.Errorf("the probe of Envoy Gateway: %s, %s, %v", reply.Status, body, err)
	}
}

// addresses are those that a daemon says it serves at.
type addresses struct{ Msg, GRPC, HTTP, Admin string }

// serve starts a daemon as the user of c. It runs until the test ends.
func (c *container) serve(t *testing.T, env []string, args ...string) addresses {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	cmd := c.command(ctx, args...)
	cmd.Env = append(cmd.Env, env...)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (a chroot needs the rights of root, or user namespaces)", err)
	}
	var at addresses
	said := ""
	lines := bufio.NewScanner(log)
	for at.Msg != "serving" && lines.Scan() {
		said += lines.Text() + "\n"
		_ = json.Unmarshal(lines.Bytes(), &at)
	}
	if at.Msg != "serving" {
		_ = cmd.Wait()
		t.Fatalf("%v does not serve:\n%s", args, said)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_, _ = io.Copy(io.Discard, log)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v ends with %v", args, err)
		}
	})
	process, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status"))
	if os.Geteuid() == 0 && !strings.Contains(string(process), "\nUid:\t65534\t65534\t65534\t65534\n") {
		t.Errorf("%v runs as another user, %v: %s", args, err, process)
	}
	return at
}
