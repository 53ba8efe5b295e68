# auxcore_device_image(PATH FILES OUT_IMAGE): compiles a hot path's device code into one image, PTX or a fat binary. CMake's own CUDA
# language is not used: it asks for the CUDA toolkit even where clang alone would do.

find_program(AUXCORE_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
find_program(AUXCORE_CLANG NAMES clang++-19 clang++-20 clang++-21 clang++)
mark_as_advanced(AUXCORE_NVCC AUXCORE_CLANG)

set(AUXCORE_PTX_ARCHITECTURE 80 CACHE STRING "the least compute capability, without the point, that clang's PTX is for")

set(AUXCORE_IMAGE_BY ${AUXCORE_DEVICE_IMAGE})
if(AUXCORE_IMAGE_BY STREQUAL "AUTO")
  if(AUXCORE_NVCC)
    set(AUXCORE_IMAGE_BY NVCC)
  elseif(AUXCORE_CLANG)
    set(AUXCORE_IMAGE_BY CLANG)
  else()
    set(AUXCORE_IMAGE_BY NONE)
  endif()
endif()

if(AUXCORE_IMAGE_BY STREQUAL "NVCC")
  if(NOT AUXCORE_NVCC)
    message(FATAL_ERROR "AUXCORE_DEVICE_IMAGE is NVCC, but nvcc was not found; put it on the PATH or set CUDA_HOME")
  endif()
  execute_process(COMMAND ${AUXCORE_NVCC} --version OUTPUT_VARIABLE version)
  string(REGEX MATCH "release ([0-9.]+)" _ "${version}")
  set(AUXCORE_IMAGE_DESCRIPTION "nvcc ${CMAKE_MATCH_1}, sm_80 and sm_90, PTX for later devices")
elseif(AUXCORE_IMAGE_BY STREQUAL "CLANG")
  if(NOT AUXCORE_CLANG)
    message(FATAL_ERROR "AUXCORE_DEVICE_IMAGE is CLANG, but clang++ was not found; install clang-19")
  endif()
  execute_process(COMMAND ${AUXCORE_CLANG} --version OUTPUT_VARIABLE version)
  string(REGEX MATCH "version ([0-9.]+)" _ "${version}")
  set(AUXCORE_IMAGE_DESCRIPTION "clang ${CMAKE_MATCH_1}, PTX for sm_${AUXCORE_PTX_ARCHITECTURE} and later")
elseif(AUXCORE_IMAGE_BY STREQUAL "NONE")
  set(AUXCORE_IMAGE_DESCRIPTION "none")
else()
  message(FATAL_ERROR "AUXCORE_DEVICE_IMAGE is '${AUXCORE_DEVICE_IMAGE}'; it may be AUTO, NVCC, CLANG or NONE")
endif()
message(STATUS "AuxCore's device code: ${AUXCORE_IMAGE_DESCRIPTION}")
file(WRITE ${CMAKE_BINARY_DIR}/device-image.txt "${AUXCORE_IMAGE_DESCRIPTION}\n")

# FILES are joined into one unit, so that an image is one file whoever compiles it.
function(auxcore_device_image path files out_image)
  set(unit ${CMAKE_BINARY_DIR}/images/${path}.cu)
  set(includes "")
  foreach(file ${files})
    string(APPEND includes "#include \"${file}\"\n")
  endforeach()
  file(CONFIGURE OUTPUT ${unit} CONTENT "${includes}" @ONLY)

  if(AUXCORE_IMAGE_BY STREQUAL "NVCC")
    set(image ${CMAKE_BINARY_DIR}/images/${path}.fatbin)
    set(compile ${AUXCORE_NVCC} -fatbin -std=c++17 -O3 -lineinfo
        -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_80,code=compute_80
        -MD -MF ${image}.d -MT ${image} ${unit} -o ${image})
  elseif(AUXCORE_IMAGE_BY STREQUAL "CLANG")
    set(image ${CMAKE_BINARY_DIR}/images/${path}.ptx)
    # PTX 7.0 has shfl.sync and cp.async; clang's default for sm_80 is older.
    set(compile ${AUXCORE_CLANG} -x cuda --cuda-device-only --cuda-gpu-arch=sm_${AUXCORE_PTX_ARCHITECTURE} --cuda-feature=+ptx70
        -nocudainc -nocudalib -fms-extensions -std=c++17 -O3 -Wall -Wextra -Werror
        -MD -MF ${image}.d -MT ${image} -S ${unit} -o ${image})
  else()
    set(${out_image} "" PARENT_SCOPE)
    return()
  endif()
  add_custom_command(OUTPUT ${image} COMMAND ${compile} DEPENDS ${unit} ${files} DEPFILE ${image}.d
    COMMENT "Device code of ${path}" VERBATIM)
  set(${out_image} ${image} PARENT_SCOPE)
endfunction()
