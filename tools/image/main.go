// Command image writes the container image of ratelimitd: an OCI image layout in one
// tar file, which Docker, Podman and containerd load, and which skopeo and crane push.
// The same programs give the same file, byte for byte.
//
//	go run . -source ../.. -out image.tar -version v1.2.3 amd64/ratelimitd arm64/ratelimitd
//
// Each argument is a program, built for Linux without cgo: one for each architecture.
package main

import (
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is nobody's, as a number: the image has no /etc/passwd, and Kubernetes's
// runAsNonRoot can only check a number.
const user = "65534:65534"

func main() {
	source := flag.String("source", "", "the `directory` of ratelimitd's source, for its licences")
	out := flag.String("out", "", "the `file` to write")
	version := flag.String("version", "", "the version of the programs")
	flag.Parse()
	if *source == "" || *out == "" || *version == "" || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*source, *out, *version, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(source, out, version string, programs []string) error {
	var images []image
	for _, path := range programs {
		p, err := readProgram(path)
		if err != nil {
			return err
		}
		img, err := p.image(source, version)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		images = append(images, image{img, v1.Platform{OS: "linux", Architecture: p.arch}})
	}
	var file bytes.Buffer
	if err := archive(&file, images, labels(version)); err != nil {
		return err
	}
	return os.WriteFile(out, file.Bytes(), 0o644) //nolint:gosec // everybody may read it
}

// A program is a ratelimitd for one architecture, with what Go recorded of its build.
type program struct {
	path, arch, tags string
}

// readProgram returns the program at path. It refuses one that needs a C library,
// which the image does not have.
func readProgram(path string) (program, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return program{}, err
	}
	p := program{path: path}
	var system, cgo string
	for _, s := range info.Settings {
		switch s.Key {
		case "GOOS":
			system = s.Value
		case "GOARCH":
			p.arch = s.Value
		case "CGO_ENABLED":
			cgo = s.Value
		case "-tags":
			p.tags = s.Value
		}
	}
	if system != "linux" || cgo != "0" {
		return program{}, fmt.Errorf("%s: it is for %s with CGO_ENABLED=%s; build it with GOOS=linux CGO_ENABLED=0", path, system, cgo)
	}
	return p, nil
}

// image returns the image of one architecture: one layer.
func (p program) image(source, version string) (v1.Image, error) {
	root := &tree{}
	text, err := os.ReadFile(p.path)
	if err != nil {
		return nil, err
	}
	root.file("bin/ratelimitd", text, 0o755)
	root.link("ratelimitd", "bin/ratelimitd")
	root.link("bin/ratelimit", "ratelimitd") // what envoyproxy/ratelimit's image calls it
	certificates, err := roots()
	if err != nil {
		return nil, err
	}
	root.file("etc/ssl/certs/ca-certificates.crt", certificates, 0o644)
	if err := p.licences(source, root); err != nil {
		return nil, err
	}
	data, err := root.tar()
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file.Architecture, file.OS, file.Created = p.arch, "linux", v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Config = v1.Config{
		User:         user,
		Env:          []string{"PATH=/bin"},
		Entrypoint:   []string{"/bin/ratelimitd"},
		Cmd:          []string{"serve"},
		ExposedPorts: map[string]struct{}{"8081/tcp": {}, "8080/tcp": {}}, // gRPC and HTTP
		Labels:       labels(version),
	}
	return mutate.ConfigFile(img, file)
}

func labels(version string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":    "ratelimitd",
		"org.opencontainers.image.version":  version,
		"org.opencontainers.image.licenses": "MIT",
		"org.opencontainers.image.source":   "https://github.com/ratelimitd/ratelimitd",
	}
}

// An image is that of one platform.
type image struct {
	v1.Image
	platform v1.Platform
}

// archive writes images as one OCI image index, and the first of them as Docker's own
// format too: for a Docker that does not keep its images in containerd.
func archive(w io.Writer, images []image, annotations map[string]string) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	files := &tree{}
	for i, img := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &img.platform}})
		manifest, err1 := img.RawManifest()
		config, err2 := img.RawConfigFile()
		layers, err3 := img.Layers()
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		files.blob(manifest)
		docker := dockerManifest{Config: files.blob(config), RepoTags: []string{"ratelimitd:latest"}}
		for _, l := range layers {
			compressed, err := l.Compressed()
			if err != nil {
				return err
			}
			data, err := io.ReadAll(compressed)
			if err != nil {
				return err
			}
			docker.Layers = append(docker.Layers, files.blob(data))
		}
		if i == 0 {
			if err := files.json("manifest.json", []dockerManifest{docker}); err != nil {
				return err
			}
		}
	}
	inner, ok := mutate.Annotations(index, annotations).(v1.ImageIndex)
	if !ok {
		return errors.New("an index with annotations is no index")
	}
	manifest, err := inner.RawManifest()
	if err != nil {
		return err
	}
	files.blob(manifest)
	named := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: inner, Descriptor: v1.Descriptor{
		Annotations: map[string]string{
			"org.opencontainers.image.ref.name": "latest",
			"io.containerd.image.name":          "docker.io/library/ratelimitd:latest",
		},
	}})
	outer, err := named.RawManifest()
	if err != nil {
		return err
	}
	files.file("index.json", outer, 0o644)
	if err := files.json("oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}); err != nil {
		return err
	}
	data, err := files.tar()
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// A dockerManifest is an entry of the manifest.json that docker load reads.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// json adds a file.
func (t *tree) json(path string, v any) error {
	text, err := json.Marshal(v)
	if err == nil {
		t.file(path, text, 0o644)
	}
	return err
}
