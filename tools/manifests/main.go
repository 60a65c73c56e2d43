// Command manifests checks what deploy/ has for compose and Kubernetes: that it
// is read by the libraries of those, strictly, and that what the parts say of
// one another is so.
//
//	go run . ../../deploy
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: manifests DIR, where DIR is deploy/")
		os.Exit(2)
	}
	dir := os.Args[1]
	if err := errors.Join(checkCompose(filepath.Join(dir, "compose.yaml")), checkKubernetes(filepath.Join(dir, "kubernetes"))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("compose.yaml and kubernetes/: ok")
}

// checkCompose loads a compose file as docker compose does, and looks for the
// files that it mounts.
func checkCompose(name string) error {
	options, err := cli.NewProjectOptions([]string{name}, cli.WithResolvedPaths(true))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, s := range project.Services {
		for _, v := range s.Volumes {
			if v.Type != "bind" {
				continue
			}
			info, statErr := os.Stat(v.Source)
			switch {
			case statErr != nil:
				err = errors.Join(err, fmt.Errorf("%s: service %s: %w", name, s.Name, statErr))
			case !info.IsDir(): // if an editor replaces the file, the container keeps the old one
				err = errors.Join(err, fmt.Errorf("%s: service %s mounts the file %s; mount its folder", name, s.Name, v.Source))
			}
		}
	}
	if limit := int64(project.Services["ratelimitd"].MemLimit); limit != memoryLimit {
		err = errors.Join(err, fmt.Errorf("%s: ratelimitd has a memory limit of %d bytes, want %d", name, limit, memoryLimit))
	}
	return err
}

// memoryLimit is the memory of the daemon in all examples, in bytes.
const memoryLimit = 512 << 20

// A folder is what kubernetes/ makes: one of each kind.
type folder struct {
	deployment apps.Deployment
	service    core.Service
	config     core.ConfigMap
	budget     policy.PodDisruptionBudget
	scaler     autoscaling.HorizontalPodAutoscaler
	monitor    monitoring.ServiceMonitor
}

// checkKubernetes builds a kustomization and decodes what it makes, strictly.
func checkKubernetes(dir string) error {
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	var f folder
	into := map[string]any{
		"Deployment": &f.deployment, "Service": &f.service, "ConfigMap": &f.config,
		"PodDisruptionBudget": &f.budget, "HorizontalPodAutoscaler": &f.scaler, "ServiceMonitor": &f.monitor,
	}
	for _, r := range made.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			return err
		}
		to, known := into[r.GetKind()]
		if !known {
			return fmt.Errorf("%s: a %s, which is not checked", dir, r.GetKind())
		}
		if err := yaml.UnmarshalStrict(bytes.TrimSpace(text), to); err != nil {
			return fmt.Errorf("%s: %s %s: %w", dir, r.GetKind(), r.GetName(), err)
		}
		delete(into, r.GetKind())
	}
	err = checkDocs(filepath.Join(dir, "..", "..", "docs"), made)
	for kind := range into {
		err = errors.Join(err, fmt.Errorf("%s: there is no %s", dir, kind))
	}
	return errors.Join(err, f.check())
}

// object is how the arguments of kubectl name an object.
var object = regexp.MustCompile(`\b(deployment|service|svc|configmap|pod)/([a-z0-9.-]*[a-z0-9])`)

// checkDocs checks that the objects that the commands in a folder of pages name are
// among those that are made.
func checkDocs(dir string, made resmap.ResMap) error {
	pages, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil || len(pages) == 0 {
		return fmt.Errorf("%s: no pages: %w", dir, err)
	}
	there := map[string]bool{}
	for _, r := range made.Resources() {
		there[strings.ToLower(r.GetKind())+"/"+r.GetName()] = true
	}
	for _, page := range pages {
		text, readErr := os.ReadFile(page)
		err = errors.Join(err, readErr)
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, "kubectl") {
				continue
			}
			for _, m := range object.FindAllStringSubmatch(line, -1) {
				if kind := strings.Replace(m[1], "svc", "service", 1); !there[kind+"/"+m[2]] {
					err = errors.Join(err, fmt.Errorf("%s: kubernetes/ has no %s", page, m[0]))
				}
			}
		}
	}
	return err
}

// check checks what the parts say of one another.
func (f *folder) check() (err error) {
	must := func(ok bool, format string, args ...any) {
		if !ok {
			err = errors.Join(err, fmt.Errorf("kubernetes: "+format, args...))
		}
	}
	pods := labels.Set(f.deployment.Spec.Template.Labels)
	selects := func(selector *metav1.LabelSelector, of labels.Set) bool {
		parsed, parseErr := metav1.LabelSelectorAsSelector(selector)
		return parseErr == nil && !parsed.Empty() && parsed.Matches(of)
	}
	must(selects(f.deployment.Spec.Selector, pods), "the Deployment does not select its pods")
	must(len(f.service.Spec.Selector) > 0 && labels.SelectorFromSet(f.service.Spec.Selector).Matches(pods), "the Service does not select the pods")
	must(selects(f.budget.Spec.Selector, pods), "the PodDisruptionBudget does not select the pods")
	must(selects(&f.monitor.Spec.Selector, f.service.Labels), "the ServiceMonitor does not select the Service")
	must(f.scaler.Spec.ScaleTargetRef.Name == f.deployment.Name, "the HorizontalPodAutoscaler scales %q", f.scaler.Spec.ScaleTargetRef.Name)
	if len(f.deployment.Spec.Template.Spec.Containers) != 1 {
		return errors.Join(err, errors.New("kubernetes: the pods have not one container"))
	}
	container := &f.deployment.Spec.Template.Spec.Containers[0]
	ports := map[string]bool{}
	for _, p := range container.Ports {
		ports[p.Name] = true
	}
	for _, p := range f.service.Spec.Ports {
		must(ports[p.TargetPort.String()], "the Service's port %s leads to %s, which the container does not have", p.Name, p.TargetPort.String())
	}
	for _, p := range []*core.Probe{container.StartupProbe, container.ReadinessProbe, container.LivenessProbe} {
		must(p != nil && p.HTTPGet != nil && ports[p.HTTPGet.Port.String()], "a probe is missing, or asks a port that the container does not have")
	}
	must(container.Resources.Limits.Memory().Value() == memoryLimit, "the memory limit is %s, want %d bytes", container.Resources.Limits.Memory(), memoryLimit)
	sc, pod := container.SecurityContext, f.deployment.Spec.Template.Spec.SecurityContext
	must(sc != nil && sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem, "the root file system can be written to")
	must(pod != nil && pod.RunAsNonRoot != nil && *pod.RunAsNonRoot, "the pods may run as root")
	must(len(f.deployment.Spec.Template.Spec.Volumes) == 1 && f.deployment.Spec.Template.Spec.Volumes[0].ConfigMap != nil && f.deployment.Spec.Template.Spec.Volumes[0].ConfigMap.Name == f.config.Name, "the ConfigMap %s is not mounted", f.config.Name)
	return err
}
