/* As much of NVIDIA's management library as the plugin calls, for GPUs that are not there. What they are is told by variables:
   FAKE_COUNT, FAKE_LOST (the number of one that has fallen off the bus), FAKE_MIG (of one that is cut into slices). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
enum { OK = 0, NOT_SUPPORTED = 3, LOST = 15 };
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Busy;
typedef struct {
  char legacy[16];
  unsigned domain, bus, device, id, subsystem;
  char bus_id[32];
} Pci;

static int told(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}
static int number(void *device) { return (int)((long)device - 1); }

Result nvmlInitWithFlags(unsigned flags) { (void)flags; return OK; }
Result nvmlInit_v2(void) { return OK; }
Result nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(Result result) { return result == LOST ? "GPU is lost" : "some error"; }
Result nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "999.12"); return OK; }
Result nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13010; return OK; }
Result nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)told("FAKE_COUNT", 2); return OK; }
Result nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  if ((int)index == told("FAKE_LOST", -1)) return LOST;
  *device = (void *)(long)(index + 1);
  return OK;
}
Result nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
  snprintf(text, size, "GPU-0000000%d-fake", number(device));
  return OK;
}
Result nvmlDeviceGetName(void *device, char *text, unsigned size) {
  (void)device;
  snprintf(text, size, "NVIDIA H100 Fake");
  return OK;
}
Result nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
  memory->total = 80ULL << 30;
  memory->used = (unsigned long long)number(device) << 30;
  memory->free = memory->total - memory->used;
  return OK;
}
Result nvmlDeviceGetPciInfo_v3(void *device, Pci *pci) {
  memset(pci, 0, sizeof *pci);
  snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", 10 + number(device));
  return OK;
}
Result nvmlDeviceGetMinorNumber(void *device, unsigned *minor) { *minor = (unsigned)number(device); return OK; }
Result nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *later) {
  if (told("FAKE_MIG", -1) < 0) return NOT_SUPPORTED;
  *now = *later = number(device) == told("FAKE_MIG", -1);
  return OK;
}
Result nvmlDeviceGetUtilizationRates(void *device, Busy *busy) {
  busy->gpu = 30 + (unsigned)number(device);
  busy->memory = 1;
  return OK;
}
