# Decides STEPWARD_WITH_CUDA and gives stepward_use_cuda(target).
# Kernels are torch-free CUDA, so nvcc needs only the toolkit; the architectures are fixed, not taken from the build machine.

set(STEPWARD_WITH_CUDA OFF)
if(STEPWARD_CUDA STREQUAL "AUTO")
  if(TORCH_CUDA)
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      set(STEPWARD_WITH_CUDA ON)
    else()
      message(STATUS "libtorch has CUDA but nvcc was not found: building for the CPU only")
    endif()
  endif()
elseif(STEPWARD_CUDA)
  if(NOT TORCH_CUDA)
    message(FATAL_ERROR "STEPWARD_CUDA=ON, but libtorch in ${TORCH_ROOT} is a CPU build (no lib/libtorch_cuda.so).")
  endif()
  set(STEPWARD_WITH_CUDA ON)
endif()

if(STEPWARD_WITH_CUDA)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)  # 90 also embeds PTX, which newer GPUs compile at load
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)  # the newest that CMake before 3.26 can ask nvcc for
  find_package(CUDAToolkit REQUIRED)
  message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES}")
else()
  message(STATUS "CUDA off")
endif()

function(stepward_use_cuda target)
  if(STEPWARD_WITH_CUDA)
    target_compile_definitions(${target} PUBLIC STEPWARD_CUDA=1)
    # Static: libtorch brings its own libcudart.so, of another version perhaps; the two share one primary context.
    target_link_libraries(${target} PUBLIC CUDA::cudart_static)
  endif()
endfunction()
