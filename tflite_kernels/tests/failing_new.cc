#include "tests/failing_new.h"

#include <cstdlib>
#include <new>

namespace kerasq {

int& AllocationsLeft() {
  thread_local int left = -1;
  return left;
}

namespace {

void* Allocate(std::size_t size) {
  int& left = AllocationsLeft();
  if (left >= 0 && left-- == 0) return nullptr;
  return std::malloc(size > 0 ? size : 1);
}

void* AllocateOrThrow(std::size_t size) {
  void* memory = Allocate(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace
}  // namespace kerasq

// All of them: a sanitizer's own would not free what these have allocated.
void* operator new(std::size_t size) { return kerasq::AllocateOrThrow(size); }
void* operator new[](std::size_t size) { return kerasq::AllocateOrThrow(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return kerasq::Allocate(size);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return kerasq::Allocate(size);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
